"""Which fields a request may carry, per endpoint: what is not listed is refused.

vLLM's request models take any field (`extra="allow"`), so these lists are the only gate. One module
for each family of endpoints has its tables, with the reason beside each row; `table.py` applies them.
"""
