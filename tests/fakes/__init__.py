"""Stand-ins for what the proxy talks to, and the real proxy between them."""
