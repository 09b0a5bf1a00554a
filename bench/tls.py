"""Certificates for the rows with TLS, and what the fake ends listen with."""

import ssl
from pathlib import Path
from typing import Final

from hubgate.runtime import certificate_maker
from hubgate.runtime.certificate_maker import Wanted
from hubgate.runtime.tls import Party, Paths, TlsFiles
from hubgate.wire.certificates import Kind

UPSTREAM: Final = "gpu-0"  # whom the certificates are for


def make(folder: Path) -> None:
    """An authority, and a pair of each kind."""
    wanted = [Wanted("proxy", "proxy"), Wanted("backend", UPSTREAM), Wanted("engine", UPSTREAM)]
    for _ in certificate_maker.make(folder, wanted):
        pass


def listener(folder: Path, kind: Kind) -> ssl.SSLContext:
    """What an end of this kind listens with: it asks proxies for their certificates."""
    own = folder / f"tls_{kind}_{UPSTREAM}"
    paths = Paths((folder / "tls_ca.pem",), own.with_suffix(".pem"), own.with_suffix(".key"))
    return TlsFiles(paths, Party("server", kind, ("proxy",))).listener()
