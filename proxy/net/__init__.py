"""What both sides of the proxy's connections share: deadlines, and heads that repeat."""
