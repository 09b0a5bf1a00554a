"""The private disk store: whole repos at exact commits, `<path>/<org>/<name>/<sha>/`.

A directory appears there by a rename, so whatever is there is complete and verified. What lies here
proves nothing about who may use it: that is decided by the proxy, for every request.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from runtime.config import ConfigError
from wire.repo import InvalidRepoError, RepoRef

STAGING = ".staging"  # no repo can be called that: an organization begins with a letter or digit
LOCK = ".lock"


class StoreFullError(Exception):
    """There is no room, and nothing left that could make some."""


@dataclass(slots=True)
class _Entry:
    path: Path
    bytes: int
    used: float  # seconds since the epoch
    holders: int = 0


@dataclass(slots=True)
class Staging:
    """A private directory that a download fills; its bytes are promised until it is closed."""

    path: Path
    promised: int = 0


@dataclass(slots=True)
class Store:
    """One process owns it. All state is in `_entries` and `_stagings`; the rest lies on disk."""

    root: Path
    max_bytes: int
    clock: Callable[[], float]  # seconds since the epoch
    _entries: dict[RepoRef, _Entry] = field(default_factory=dict)
    _stagings: list[Staging] = field(default_factory=list)
    _lock: int = -1

    def open(self) -> None:
        """Take the store, drop unfinished downloads, index the finished. Raises `ConfigError`."""
        try:
            self.root = self.root.absolute()
            self.root.mkdir(parents=True, exist_ok=True)
            self.root.chmod(0o700)
            self._lock = os.open(self.root / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(self.root / STAGING, ignore_errors=True)
            (self.root / STAGING).mkdir(mode=0o700)
            self._entries = dict(self._scan())
        except BlockingIOError:
            raise ConfigError([f"store.path: {self.root} belongs to another running backend"]) from None
        except OSError as error:
            raise ConfigError([f"store.path: {self.root}: {error.strerror}"]) from None

    def close(self) -> None:
        """Let another process take the store."""
        shutil.rmtree(self.root / STAGING, ignore_errors=True)
        os.close(self._lock)

    @property
    def bytes(self) -> int:
        """What the finished repos take."""
        return sum(entry.bytes for entry in self._entries.values())

    def find(self, ref: RepoRef) -> Path | None:
        """Where the repo at this sha lies, if it does."""
        entry = self._entries.get(ref)
        return entry.path if entry else None

    def hold(self, ref: RepoRef) -> Path:
        """Keep the repo on disk until `release`. Raises `KeyError` if it is not there."""
        entry = self._entries[ref]
        entry.holders += 1
        self._touch(entry)
        return entry.path

    def release(self, ref: RepoRef) -> None:
        """Undo one `hold`; the repo may then make room for others."""
        entry = self._entries[ref]
        entry.holders -= 1
        self._touch(entry)

    @contextmanager
    def staging(self) -> Iterator[Staging]:
        """A fresh directory to download into; whatever was not published goes at the end."""
        staging = Staging(Path(tempfile.mkdtemp(dir=self.root / STAGING)))
        self._stagings.append(staging)
        try:
            yield staging
        finally:
            self._stagings.remove(staging)
            shutil.rmtree(staging.path, ignore_errors=True)

    def reserve(self, staging: Staging, size: int) -> None:
        """Promise `size` bytes to a download; evicts what was used longest ago and nobody holds.

        Raises `StoreFullError`, and then nothing was evicted.
        """
        promised = sum(other.promised for other in self._stagings if other is not staging)
        excess = self.bytes + promised + size - self.max_bytes
        victims = []
        idle = sorted((e.used, ref) for ref, e in self._entries.items() if not e.holders)
        for _, ref in idle:
            if excess <= 0:
                break
            victims.append(ref)
            excess -= self._entries[ref].bytes
        if excess > 0:
            raise StoreFullError
        for ref in victims:
            self._evict(ref)
        staging.promised = size

    def publish(self, staging: Staging, content: Path, ref: RepoRef) -> Path:
        """Make a finished, verified directory of the staging the repo at this sha. Raises `OSError`."""
        target = self._place(ref)
        target.parent.mkdir(parents=True, exist_ok=True)
        content.rename(target)
        entry = self._entries[ref] = _Entry(target, _size(target), self.clock())
        self._touch(entry)
        staging.promised = 0
        return target

    def _place(self, ref: RepoRef) -> Path:
        if not ref.pinned or ref.revision is None:
            raise ValueError("only a repo at a commit sha has a place in the store")
        return self.root / ref.org / ref.name / ref.revision

    def _evict(self, ref: RepoRef) -> None:
        entry = self._entries.pop(ref)
        # Away in one step: after a crash half of it must not look whole.
        grave = Path(tempfile.mkdtemp(dir=self.root / STAGING))
        entry.path.rename(grave / "evicted")
        shutil.rmtree(grave)
        for parent in (entry.path.parent, entry.path.parent.parent):
            with suppress(OSError):  # other revisions or repos are still in it
                parent.rmdir()

    def _touch(self, entry: _Entry) -> None:
        entry.used = self.clock()
        os.utime(entry.path, (entry.used, entry.used))

    def _scan(self) -> Iterator[tuple[RepoRef, _Entry]]:
        for path in sorted(self.root.glob("*/*/*")):
            try:
                ref = RepoRef.parse("{}/{}@{}".format(*path.parts[-3:]))
            except InvalidRepoError:
                continue  # not ours; it stays, and is not counted
            if ref.pinned and path.is_dir() and not path.is_symlink():
                yield ref, _Entry(path, _size(path), path.stat().st_mtime)


def _size(directory: Path) -> int:
    return sum(path.lstat().st_size for path in directory.rglob("*") if not path.is_dir())
