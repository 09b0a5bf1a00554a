"""Who is calling, and what the Hub lets them read."""
