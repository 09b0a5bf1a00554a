"""A key file that may change while it is used: rotation needs no restart.

Whoever writes a new key into the files of both sides, in whatever order, loses no request: each side
looks at its file every second and accepts every key in it, and a new key is used for signing or
sealing only once it has been there for `SETTLE` seconds, when the other side knows it too.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from hubgate.wire.keys import SETTLE, KeyFileError

RECHECK = 1.0  # seconds between two looks at the file

Keys = TypeVar("Keys")


class KeyFile(Generic[Keys]):
    """The keys of one file, as they are now.

    While a new version cannot be read (half written, gone for a moment), the last good one counts
    and `fault` says why.
    """

    __slots__ = ("_checked", "_clock", "_keys", "_load", "_path", "_settled_at", "_version", "fault")

    def __init__(self, path: Path, load: Callable[[Path], Keys], clock: Callable[[], float]) -> None:
        """Raises `KeyFileError`. The clock gives seconds and never goes back."""
        self._path = path
        self._load = load
        self._clock = clock
        self._checked = clock()
        self._settled_at = self._checked + SETTLE + RECHECK
        self._version = version_of(path)
        self._keys = load(path)
        self.fault: str | None = None

    def current(self) -> Keys:
        """The keys; the same object for as long as nothing changes."""
        now = self._clock()
        if now - self._checked >= RECHECK:
            self._checked = now
            self._look(now)
        return self._keys

    def _look(self, now: float) -> None:
        version = version_of(self._path)
        if version != self._version:
            self._settled_at = now + SETTLE + RECHECK
        elif self.fault is None and now > self._settled_at:
            return
        try:
            self._keys = self._load(self._path)
        except KeyFileError as error:
            self.fault = str(error)
            return
        self._version, self.fault = version, None


def version_of(path: Path) -> tuple[int, ...] | None:
    """Tells one version of a file from another; a secret volume swaps a link, which shows as well."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return (stat.st_ino, stat.st_mtime_ns, stat.st_size)
