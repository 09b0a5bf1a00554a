"""The Hub as the proxy asks it: transport, answers, refusals, and what is cached of them."""
