"""The GPU side: downloads with the caller's scoped token, runs and feeds vLLM."""
