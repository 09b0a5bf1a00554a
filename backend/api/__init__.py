"""The backend's HTTP server: the control API for proxies, and probes for operators."""
