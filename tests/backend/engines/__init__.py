"""Tests of hubgate.backend.engines."""
