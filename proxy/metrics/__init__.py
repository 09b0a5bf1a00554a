"""The proxy's metrics, and the counters that are cheap enough for the path of a request."""
