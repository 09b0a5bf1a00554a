"""Backends that are found by DNS, and named by their own hello.

DNS is believed in nothing but where to ask: whoever answers there is a backend if its hello is signed with a
key of `public_keys`, and has a name that `names` allows. It gets tokens that the key beside that one opens.
"""

import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final, Never

import structlog

from hubgate.proxy.settings import DnsUpstreams
from hubgate.proxy.upstream.control_client import ControlClient, ControlError
from hubgate.proxy.upstream.upstream_pool import Upstream
from hubgate.wire.keyfile import KeyFile
from hubgate.wire.keys import BackendPublic, KeyFileError, load_backend_public
from hubgate.wire.seal import SealError, verify_hello

EVERY: Final = 5.0  # seconds between two look-ups

PublicKeys = KeyFile[tuple[BackendPublic, ...]]
Make = Callable[[DnsUpstreams, PublicKeys, str], Upstream]  # the last is the URL

log = structlog.get_logger("upstream")


def load_public_keys(path: Path) -> tuple[BackendPublic, ...]:
    """The public halves of backends: of one file, or of all `*.pub` in a folder. Raises `KeyFileError`."""
    if not path.is_dir():
        return (load_backend_public(path),)
    found = tuple(load_backend_public(file) for file in sorted(path.glob("*.pub")))
    if not found:
        raise KeyFileError(f"{path}: holds no *.pub file")
    return found


class FoundControl(ControlClient):
    """The control API of a backend whose name and key its hello tells."""

    def __init__(self, url: str, names: str, public: PublicKeys, **collaborators: Any) -> None:
        """`collaborators` are those of `ControlClient`."""
        super().__init__(name="", url=url, backend=self._own, **collaborators)
        self._names = names
        self._public = public
        self._mine: BackendPublic | None = None

    def _own(self) -> BackendPublic:
        if self._mine is None:
            raise ControlError("no hello of it was believed yet")
        return self._mine

    def _verified(self, signed: bytes) -> bytes:
        for public in self._public.current():
            try:
                payload = verify_hello(signed, public.verifying)
            except SealError as error:
                refused = error
            else:
                self._mine = public
                return payload
        raise refused

    def _named(self, name: str) -> None:
        if not fnmatchcase(name, self._names):
            raise ControlError(f"is named {name}, which does not fit {self._names}")
        self._name = name


class Discovery:
    """What DNS tells for each entry of the configuration."""

    def __init__(self, make: Make, changed: Callable[[], None]) -> None:
        self._make = make
        self._changed = changed
        self._entries: Mapping[DnsUpstreams, PublicKeys] = {}
        self._found: dict[tuple[DnsUpstreams, str], Upstream] = {}
        self._silent: set[DnsUpstreams] = set()
        self._look = asyncio.Event()

    @property
    def found(self) -> Sequence[Upstream]:
        """Whatever is there now."""
        return tuple(self._found.values())

    def replace(self, entries: Mapping[DnsUpstreams, PublicKeys]) -> None:
        """Look up these from now on; what was found for others is forgotten."""
        self._entries = dict(entries)
        self._found = {key: one for key, one in self._found.items() if key[0] in self._entries}
        self._look.set()

    async def run(self) -> Never:
        """Look all of them up again and again."""
        while True:
            self._look.clear()
            for entry, public in tuple(self._entries.items()):
                hosts = await self._resolve(entry)
                if hosts is not None and entry in self._entries:
                    self._take(entry, public, hosts)
            try:
                async with asyncio.timeout(EVERY):
                    await self._look.wait()
            except TimeoutError:
                continue

    async def _resolve(self, entry: DnsUpstreams) -> set[str] | None:
        """The addresses; `None` while nothing is known, which is no reason to forget what was."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(entry.dns, entry.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            if entry not in self._silent:
                log.warning("no address of backends", dns=entry.dns, error=type(error).__name__)
                self._silent.add(entry)
            return None
        self._silent.discard(entry)
        return {str(address[0]) for *_, address in found}

    def _take(self, entry: DnsUpstreams, public: PublicKeys, hosts: set[str]) -> None:
        known = {host for of, host in self._found if of == entry}
        if hosts == known:
            return
        for host in sorted(known - hosts):
            del self._found[entry, host]
        for host in sorted(hosts - known):
            url = f"http://[{host}]:{entry.port}" if ":" in host else f"http://{host}:{entry.port}"
            self._found[entry, host] = self._make(entry, public, url)
        log.info("backends found", dns=entry.dns, addresses=len(hosts))
        self._changed()
