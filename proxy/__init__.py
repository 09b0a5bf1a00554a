"""The edge: authenticates, authorizes, audits and relays. Imports neither torch nor vllm."""
