"""The benchmark's own arithmetic, and that it notices what would falsify a figure."""
