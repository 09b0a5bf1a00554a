"""Makes models warm: for a caller who waits, or ahead of time by configuration."""
