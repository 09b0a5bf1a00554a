"""Whether a repo may enter an engine: decided from its listing, its configuration and its headers."""
