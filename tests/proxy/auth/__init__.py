"""Tests of hubgate.proxy.auth."""
