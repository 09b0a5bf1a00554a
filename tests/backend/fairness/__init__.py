"""Fair shares, compared with simple references."""
