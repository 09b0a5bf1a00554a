"""Tests of hubgate.backend.store."""
