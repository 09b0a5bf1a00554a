"""Rate limits: what each caller may use, and what somebody may who is none."""
