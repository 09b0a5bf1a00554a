"""What the data plane does with bytes, times and ends: raw sockets on both sides of the real proxy."""
