"""Certificates for a test, and callers who trust them."""

import ssl
from pathlib import Path

import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from tests.fakes.engine import LOCAL


class Authority:
    """A certificate authority of a test's own."""

    def __init__(self) -> None:
        self._authority = trustme.CA()

    @property
    def pem(self) -> bytes:
        """Its own certificate, which who trusts it has."""
        return self._authority.cert_pem.bytes()

    def issue(self, folder: Path, *names: str) -> dict[str, str]:
        """A new certificate in the files of this folder, as `listen.tls` names them."""
        made = self._authority.issue_cert(*names or (LOCAL, "localhost"))
        certificate, key = folder / "tls.pem", folder / "tls.key"
        certificate.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
        made.private_key_pem.write_to_path(key)
        return {"cert_file": str(certificate), "key_file": str(key)}

    def lock(self, key: Path) -> bytes:
        """The same key behind a password."""
        read = load_pem_private_key(key.read_bytes(), None)
        return read.private_bytes(
            Encoding.PEM, PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(b"secret")
        )

    def trusted(self, *protocols: str) -> ssl.SSLContext:
        """What a caller connects with who trusts this authority, and asks for these protocols by ALPN."""
        context = ssl.create_default_context()
        self._authority.configure_trust(context)
        if protocols:
            context.set_alpn_protocols(protocols)
        return context
