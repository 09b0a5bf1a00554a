"""Two proxies and three backends with fake engines, each a process of its own."""
