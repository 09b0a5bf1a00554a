"""Shares of what is scarce: who is next in a line, and who pays when something has to make room. Pure."""
