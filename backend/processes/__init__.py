"""Child processes that end with their parent, whatever happens to it."""
