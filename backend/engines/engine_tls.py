"""TLS between the supervisor and its engines, and what the engines are given for it."""

import os
import time
from datetime import UTC, datetime
from pathlib import Path

from hubgate.backend.plugin.engine_identity import EngineTls
from hubgate.backend.settings import BackendSettings
from hubgate.runtime.certificate_maker import self_signed
from hubgate.runtime.tls import Party, Paths, TlsFiles

FILE = "supervisor.pem"


class SupervisorTls:
    """The supervisor's own certificate, made for one boot, and what it believes of its engines.

    The engines of this backend believe it, and nobody else does: a backend's certificate, which is in a file,
    lets nobody in anywhere. The key is in memory alone.
    """

    def __init__(self, settings: BackendSettings, directory: Path) -> None:
        """`directory` is where engines find the public half. Raises `KeyFileError`, `OSError`."""
        tls = settings.listen.tls
        if tls is None:
            raise ValueError("there is no TLS")
        made = self_signed("supervisor", settings.name, datetime.now(UTC))
        self._memory = os.memfd_create("supervisor")  # OpenSSL reads keys from files alone
        os.write(self._memory, made)
        public = directory / FILE
        public.unlink(missing_ok=True)
        public.write_bytes(made[: made.index(b"-----BEGIN PRIVATE KEY-----")])
        pair = Path(f"/proc/self/fd/{self._memory}")
        self.name = settings.name
        self.files = TlsFiles(
            Paths((tls.ca_file,), pair, pair), Party("client", "supervisor", ("engine",)), now=time.time
        )
        self.engine = EngineTls(
            authorities=str(tls.ca_file.absolute()),
            supervisor=str(public.absolute()),
            certificate=str(tls.engines.cert_file.absolute()),
            key=str(tls.engines.key_file.absolute()),
        )

    def close(self) -> None:
        """Forget the key."""
        os.close(self._memory)
