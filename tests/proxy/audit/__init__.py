"""Tests of hubgate.proxy.audit."""
