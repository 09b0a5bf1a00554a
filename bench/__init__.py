"""Hubgate and its peers side by side: see README.md here."""
