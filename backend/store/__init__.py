"""The disk cache of whole repos at exact commits."""
