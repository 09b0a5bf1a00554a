"""Tests of hubgate.backend.processes."""
