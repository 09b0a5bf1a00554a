"""Tests of hubgate.backend.admission."""
