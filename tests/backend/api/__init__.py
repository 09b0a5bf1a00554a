"""Tests of hubgate.backend.api."""
