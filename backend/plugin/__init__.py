"""What runs inside vLLM: the gate before it, the adapters in it, and its end with its parent."""
