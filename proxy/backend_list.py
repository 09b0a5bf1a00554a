"""The backends that this proxy speaks to: the configuration's, which a reload may change, and DNS's."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from hubgate.proxy import preflight
from hubgate.proxy.preflight import Checked
from hubgate.proxy.settings import AnyUpstream, DnsUpstreams
from hubgate.proxy.settings import Upstream as UpstreamSettings
from hubgate.proxy.upstream.control_client import ControlClient
from hubgate.proxy.upstream.discovery import Discovery, FoundControl, PublicKeys
from hubgate.proxy.upstream.grant_signer import GrantSigner
from hubgate.proxy.upstream.upstream_pool import Pool, Upstream
from hubgate.runtime.config import ConfigError
from hubgate.runtime.tls import TlsFiles
from hubgate.wire.keyfile import KeyFile
from hubgate.wire.keys import BackendPublic, ProxyKeys


@dataclass(frozen=True, slots=True)
class Controls:
    """What the clients of all control APIs share."""

    session: aiohttp.ClientSession
    hello_session: aiohttp.ClientSession
    keys: Callable[[], ProxyKeys]
    grants: GrantSigner
    now: Callable[[], float]

    @property
    def collaborators(self) -> dict[str, Any]:
        """As `ControlClient` takes them."""
        return {
            "session": self.session,
            "hello_session": self.hello_session,
            "keys": self.keys,
            "grants": self.grants,
            "now": self.now,
        }


class BackendList:
    """Keeps the pool in step with the configuration and with DNS."""

    def __init__(
        self, entries: Sequence[AnyUpstream], checked: Checked, pool: Pool, controls: Controls
    ) -> None:
        # What is shown to which backend. An entry that is gone stays: its requests go on.
        self.tls: dict[str, TlsFiles] = {}
        self.discovery = Discovery(self._find, self._publish)
        self._pool = pool
        self._controls = controls
        self._made: dict[UpstreamSettings, Upstream] = {}
        self._public: Mapping[str, KeyFile[BackendPublic]] = {}
        self._public_keys: Mapping[DnsUpstreams, PublicKeys] = {}
        self._take(entries, checked.backends, checked.upstream_tls, checked.public_keys)

    def replace(self, entries: Sequence[AnyUpstream]) -> None:
        """Take over a new list; an entry that did not change stays as it is. Raises `ConfigError`."""
        faults: list[str] = []
        kept = {entry.name: self._public[entry.name] for entry in self._made if entry in entries}
        new = [entry for entry in entries if entry not in self._made]
        public = preflight.read_backends(entries, kept, faults)
        tls = preflight.read_upstream_tls(new, faults)
        public_keys = preflight.read_public_keys(entries, self._public_keys, faults)
        if faults:
            raise ConfigError(faults)
        self._take(entries, public, tls, public_keys)

    def _take(
        self,
        entries: Sequence[AnyUpstream],
        public: Mapping[str, KeyFile[BackendPublic]],
        tls: Mapping[str, TlsFiles],
        public_keys: Mapping[DnsUpstreams, PublicKeys],
    ) -> None:
        self._public, self._public_keys = public, public_keys
        self.tls.update(tls)
        self._made = {
            entry: self._made.get(entry) or self._configure(entry, public[entry.name])
            for entry in entries
            if isinstance(entry, UpstreamSettings)
        }
        self.discovery.replace(public_keys)
        self._publish()

    def _publish(self) -> None:
        self._pool.replace((*self._made.values(), *self.discovery.found))

    def _configure(self, entry: UpstreamSettings, public: KeyFile[BackendPublic]) -> Upstream:
        control = ControlClient(
            name=entry.name,
            url=entry.url,
            backend=public.current,
            tls_files=self.tls[entry.name] if entry.tls is not None else None,
            **self._controls.collaborators,
        )
        return Upstream(entry.name, entry.url, control, entry.weight)

    def _find(self, entry: DnsUpstreams, public: PublicKeys, url: str) -> Upstream:
        control = FoundControl(url, entry.names, public, **self._controls.collaborators)
        return Upstream(url, url, control, entry.weight, named_by_hello=True)
