"""Tests of hubgate.backend.loading."""
