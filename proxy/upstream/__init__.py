"""The backends as the proxy sees them: which are there, what they run, how a request gets there."""
