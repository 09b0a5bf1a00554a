"""Request bodies: read within limits, parsed strictly, and passed on as they were checked."""
