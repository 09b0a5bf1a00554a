"""Tests of hubgate.backend.downloads."""
