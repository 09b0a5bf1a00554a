"""Tests of the demo Hub."""
