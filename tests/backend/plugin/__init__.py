"""Tests of hubgate.backend.plugin."""
