"""What the public port does with every kind of bytes, whichever server reads them (threats.md, rows 1 to 14).

These tests are the specification of the server: they know sockets, not libraries.
"""
