"""Tests of hubgate.proxy.upstream."""
