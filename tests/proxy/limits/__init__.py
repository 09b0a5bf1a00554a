"""Tests of hubgate.proxy.limits."""
