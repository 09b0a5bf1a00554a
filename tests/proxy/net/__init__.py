"""Tests of hubgate.proxy.net."""
