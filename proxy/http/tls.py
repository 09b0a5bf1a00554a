"""The certificate of the public port, which is renewed while the port is open."""

import ssl
from pathlib import Path

from hubgate.wire.file_faults import unreadable
from hubgate.wire.keyfile import version_of
from hubgate.wire.keys import KeyFileError

PROTOCOLS = ("http/1.1",)  # for those who ask by ALPN (RFC 7301), as browsers and curl do


class Certificate:
    """A certificate with its chain, and its key, as they are in their files, both PEM.

    `context` is the listener's, which shows each new connection what it holds by then. While the files do
    not fit, or one is gone, it holds what was last good, and `fault` says why.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        """Raises `KeyFileError`."""
        self.fault: str | None = None
        self._certificate = certificate
        self._key = key
        self._versions = self._look()
        self.context = self._load(_context())

    def current(self) -> ssl.SSLContext:
        """Look at the files, and take them over if they are others and good."""
        versions = self._look()
        if versions != self._versions or self.fault is not None:
            try:
                self._load(_context())  # one that is in use would keep a half whose other half does not fit
                self._load(self.context)
            except KeyFileError as error:
                self.fault = str(error)
            else:
                self._versions, self.fault = versions, None
        return self.context

    def _look(self) -> tuple[object, object]:
        return version_of(self._certificate), version_of(self._key)

    def _load(self, context: ssl.SSLContext) -> ssl.SSLContext:
        try:
            # Without a password, that of a locked key would be asked for at the terminal.
            context.load_cert_chain(self._certificate, self._key, password="")
        except ssl.SSLError:
            told = f"{self._certificate} is no certificate of the key in {self._key}, or one is not PEM"
            raise KeyFileError(told) from None
        except OSError as error:
            raise KeyFileError(_unreadable(error, self._certificate, self._key)) from None
        return context


def _unreadable(error: OSError, *paths: Path) -> str:
    """Which of these files cannot be read, and why: OpenSSL does not tell."""
    for path in paths:
        try:
            path.read_bytes()
        except OSError as found:
            return unreadable(path, found)
    return f"{paths[0]} or {paths[1]}: {error.strerror}"  # it can be by now


def _context() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(PROTOCOLS)
    return context
