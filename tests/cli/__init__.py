"""Tests of hubgate.cli."""
