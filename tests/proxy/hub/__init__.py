"""Tests of hubgate.proxy.hub."""
