"""vLLM processes: how one is started, lives, makes room for another, and ends."""
