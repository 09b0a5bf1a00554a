"""Tests of hubgate.proxy.fields."""
