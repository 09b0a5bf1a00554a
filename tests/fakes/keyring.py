"""The key files of one proxy and one backend, made as `hubgate keygen` makes them."""

from dataclasses import dataclass
from pathlib import Path

from joserfc.jwk import KeySet

from hubgate.wire import keygen, keys
from hubgate.wire.keys import BackendKeys, BackendPublic, ProxyKeys


@dataclass(frozen=True, slots=True)
class Keyring:
    """Paths of the files; each property reads its file anew."""

    proxy_private: Path
    proxy_public: Path
    backend_private: Path
    backend_public: Path

    @classmethod
    def make(cls, folder: Path) -> "Keyring":
        """Write all four files into a folder, or take those that are there."""
        if folder.is_dir() and (made := sorted(folder.glob("hubgate_*"))):
            backend_private, backend_public, proxy_private, proxy_public = made
            return cls(proxy_private, proxy_public, backend_private, backend_public)
        return cls(*keygen.generate_proxy(folder), *keygen.generate_backend(folder))

    @property
    def proxy(self) -> ProxyKeys:
        return keys.load_proxy_keys(self.proxy_private)

    @property
    def proxies(self) -> KeySet:
        return keys.load_verifying(self.proxy_public)

    @property
    def backend(self) -> BackendKeys:
        return keys.load_backend_keys(self.backend_private)

    @property
    def backend_half(self) -> BackendPublic:
        return keys.load_backend_public(self.backend_public)
