"""Rate limits: what each caller may use, and the counters in memory or in Redis."""
