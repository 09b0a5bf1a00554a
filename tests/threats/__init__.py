"""One regression test for a row of docs/threats.md that needs several parts at once: `test_row_NN_…`.

`SECURITY.md` lists them beside those that stand with the module they are about; `test_index.py` holds
the two together.
"""
