"""An authority as `hubgate certs make` makes it, and certificates that are wrong in one way.

    pki = Pki(tmp_path)
    pki.pair("proxy", "proxy")                                # good ones
    pki.pair("proxy", "proxy", stem="old", from_days=-9, days=1)

Files lie in `folder`: `ca.pem`, and `STEM.pem` with `STEM.key`.
"""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from hubgate.runtime import certificate_maker as maker
from hubgate.runtime.certificate_maker import Wanted
from hubgate.runtime.tls import Party, Paths, TlsFiles
from hubgate.wire.certificates import Kind


@dataclass(frozen=True, slots=True)
class Pair:
    """The two files of a certificate."""

    certificate: Path
    key: Path

    @property
    def settings(self) -> dict[str, str]:
        return {"cert_file": str(self.certificate), "key_file": str(self.key)}


class Pki:
    """One authority of a test's own."""

    def __init__(self, folder: Path, ca: str = "ca") -> None:
        self.folder = folder
        made = next(iter(maker.make(folder / ca, [])))
        self.ca = made.certificate
        key = load_pem_private_key(made.key.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._authority = x509.load_pem_x509_certificate(made.certificate.read_bytes()), key

    def pair(self, kind: Kind, name: str, *, stem: str = "", from_days: float = 0, days: float = 30) -> Pair:
        """A new certificate, in the files of this stem."""
        start = datetime.now(UTC) + timedelta(days=from_days)
        certificate, key = maker.issue(self._authority, Wanted(kind, name), start, timedelta(days=days))
        stem = stem or f"{kind}-{name}"
        pair = Pair(self.folder / f"{stem}.pem", self.folder / f"{stem}.key")
        pair.key.write_bytes(maker.key_pem(key))
        pair.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
        return pair

    def upstream(self, pair: Pair | None = None) -> dict[str, str]:
        """`upstreams[].tls`, of a good proxy unless told otherwise."""
        return {"ca_file": str(self.ca), **(pair or self.pair("proxy", "proxy")).settings}

    def backend(self, name: str = "gpu-0") -> dict[str, Any]:
        """`listen.tls` of a backend of that name."""
        own, engines = self.pair("backend", name), self.pair("engine", name)
        return {"ca_file": str(self.ca), **own.settings, "engines": engines.settings}

    def control(self, name: str = "gpu-0", refused: Callable[[str], None] = lambda _: None) -> TlsFiles:
        """What a backend's control API listens with."""
        party = Party("server", "backend", ("proxy",), anybody=True)
        return self._files(self.pair("backend", name), party, refused)

    def engine(self, name: str = "gpu-0") -> TlsFiles:
        """What its engines listen with."""
        return self._files(self.pair("engine", name), Party("server", "engine", ("proxy",)))

    def proxy(self, pair: Pair | None = None) -> TlsFiles:
        """What a proxy connects with."""
        return self._files(
            pair or self.pair("proxy", "proxy"), Party("client", "proxy", ("backend", "engine"))
        )

    def server(self, pair: Pair) -> ssl.SSLContext:
        """One that looks at nothing but the authority, whatever it shows itself."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(self.ca)
        context.load_cert_chain(pair.certificate, pair.key)
        return context

    def client(self, pair: Pair | None) -> ssl.SSLContext:
        """The same for a client; without a pair it shows nothing."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.ca)
        if pair is not None:
            context.load_cert_chain(pair.certificate, pair.key)
        return context

    def _files(self, pair: Pair, party: Party, refused: Callable[[str], None] = lambda _: None) -> TlsFiles:
        return TlsFiles(Paths((self.ca,), pair.certificate, pair.key), party, refused=refused)
