"""Tests of hubgate."""
