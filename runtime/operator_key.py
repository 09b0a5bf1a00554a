"""The keys of what is an operator's: `admin.key_file` of a proxy, and those that metrics are read with.

Presented as `Authorization: Bearer KEY`, or, to look at something with a browser, as the password of Basic
(RFC 7617) with any user name. Basic is not for commands: a browser sends it along with whatever another page
has it ask for.
"""

import binascii
import re
import secrets
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from aiohttp import web

from hubgate.wire.bounded_map import BoundedMap
from hubgate.wire.file_faults import read_line
from hubgate.wire.keyfile import KeyFile
from hubgate.wire.keys import KeyFileError
from hubgate.wire.secret import Secret

MAX_KEY: Final = 512  # characters, as of a token
WRONG: Final = 10  # different keys that one address may try in a minute
MINUTE: Final = 60.0  # seconds
ADDRESSES: Final = 10_000  # of which wrong keys are counted

_KEY: Final = re.compile(rf"[!-~]{{32,{MAX_KEY}}}", re.ASCII)


def load_key(path: Path) -> Secret:
    """The key in a file. Raises `KeyFileError`."""
    make = f"make it with (umask 077; openssl rand -hex 32 > {path})"
    text, fault = read_line(path)
    if fault:
        raise KeyFileError(f"{fault}; {make}")
    if path.stat().st_mode & 0o007:
        raise KeyFileError(f"{path}: everybody on this machine may read it; chmod o= {path}")
    if not _KEY.fullmatch(text):
        raise KeyFileError(f"{path}: holds no key, which is one line of 32 or more ASCII characters; {make}")
    return Secret(text)


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches what listens there."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not for who sent it."""

    status: int
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Tries:
    """What one address has tried since `began`: digests of wrong keys, each counted once."""

    began: float
    wrong: set[bytes] = field(default_factory=set)


class KeyGuard:
    """Asks for a key. One address has so many wrong ones a minute; past that none of its is looked at.

    The same one again is no guess: it is somebody's whose key was changed.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """The clock gives seconds and never goes back."""
        self._clock = clock
        self._digest_key = secrets.token_bytes(32)
        self._tries: BoundedMap[str, _Tries] = BoundedMap(ADDRESSES)

    def refusal(
        self, request: web.Request, keys: Sequence[KeyFile[Secret]], *, commands: bool = False
    ) -> Refusal | None:
        """`None` for who presents one of the keys; for `commands` as a Bearer."""
        address, now = request.remote or "", self._clock()
        tries = self._tries.get(address)
        if tries is None or now - tries.began >= MINUTE:
            tries = _Tries(now)
        if len(tries.wrong) >= WRONG:
            wait = max(1, round(tries.began + MINUTE - now))
            return Refusal(429, "too many wrong keys of this address", {"Retry-After": str(wait)})
        presented = _presented(request.headers.getall("Authorization", []), basic=not commands)
        if presented is not None:
            # Each is compared, so that the time tells nothing.
            if any([presented == key.current() for key in keys]):  # noqa: C419
                return None
            tries.wrong.add(presented.digest(self._digest_key))
            self._tries.put(address, tries)
        ask = "Bearer" if commands else 'Bearer, Basic realm="hubgate"'
        return Refusal(401, "not the key of this port", {"WWW-Authenticate": ask})


def _presented(values: Sequence[str], *, basic: bool) -> Secret | None:
    scheme, _, credential = values[0].partition(" ") if len(values) == 1 else ("", "", "")
    if scheme.lower() == "basic" and basic:
        try:
            credential = b64decode(credential, validate=True).decode("ascii").partition(":")[2]
        except (binascii.Error, ValueError):
            return None
    elif scheme.lower() != "bearer":
        return None
    return Secret(credential) if credential.isascii() else None
