"""Downloads from the Hub: worker processes, attempts, and callers who share one."""
