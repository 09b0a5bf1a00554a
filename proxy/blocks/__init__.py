"""Lock-outs by command: how they come in, where they are kept, and how proxies share them."""
