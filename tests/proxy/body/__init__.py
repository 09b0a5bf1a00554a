"""Tests of hubgate.proxy.body."""
