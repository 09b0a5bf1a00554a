"""The private disk store of one backend: whole repos at exact commits, within a quota.

A directory appears in it by a rename, so whatever is there is complete and verified. What lies here
proves nothing about who may use it: that is decided by the proxy, for every request. How it lies on
the disk stands in `hubgate.backend.store.layout`.
"""

import errno
import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from hubgate.backend.fairness.line import OPERATOR
from hubgate.backend.fairness.shares import Shares, Thing, Why
from hubgate.backend.repo_files import RepoFile
from hubgate.backend.store.layout import STAGING, Delete, Shelf, delete_now, size_of
from hubgate.runtime.config import ConfigError
from hubgate.wire.bounded_map import BoundedMap
from hubgate.wire.repo import RepoRef

LOCK = ".lock"
USERS = 16  # of one repo, who used it last
NOTED = 600.0  # seconds between two notes of the same users
_ON_ITS_WAY = RepoRef("on", "its-way")
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

log = structlog.get_logger()


class StoreFullError(Exception):
    """There is no room, and nothing left that could make some.

    `share_used`: there would be, for somebody who has less than their share.
    """

    def __init__(self, *, share_used: bool = False) -> None:
        super().__init__()
        self.share_used = share_used


@dataclass(slots=True)
class _Entry:
    """Times in seconds since the epoch. `noted`: when its users were written down last."""

    path: Path
    bytes: int
    used: float
    came: float
    holders: int = 0
    held_since: float = 0.0
    users: BoundedMap[str, float] = field(default_factory=lambda: BoundedMap(USERS))
    noted: float = 0.0

    def thing(self, ref: RepoRef, now: float) -> Thing[RepoRef]:
        """As `Shares` looks at it. Whoever had it held uses it until it is released."""
        held = self.holders > 0
        users = {user: 0.0 if held and at >= self.held_since else now - at for user, at in self.users.items()}
        return Thing(ref, self.bytes, users, 0 if held else now - self.used, now - self.came, self.holders)


@dataclass(slots=True, eq=False)
class Staging:
    """A private directory that a download fills; its bytes are promised until it is closed."""

    path: Path
    taker: str = ""  # whom it is for, by pseudonym
    promised: int = 0
    files: tuple[RepoFile, ...] = ()  # what it will hold, as the Hub lists it
    evicted: tuple[RepoRef, ...] = ()  # what made room for it


def free_bytes(directory: Path) -> int:
    """What the file system has left for us (statvfs(3))."""
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


@dataclass(slots=True)
class Store:
    """One process owns it. All state is in `_entries` and `_stagings`; the rest lies on disk."""

    root: Path
    max_bytes: int
    clock: Callable[[], float]  # seconds since the epoch
    free: Callable[[Path], int] = free_bytes
    delete: Delete = delete_now  # a large model takes seconds
    residency: float = 3600  # seconds for which a repo is its users'
    evicted: Callable[[Why], object] = lambda _: None  # is told why something made room
    _shelf: Shelf = field(init=False)
    _entries: dict[RepoRef, _Entry] = field(default_factory=dict, init=False)
    _stagings: list[Staging] = field(default_factory=list, init=False)
    _lock: int = field(default=-1, init=False)

    def open(self) -> None:
        """Take the store, drop what a crash left, index the rest, go down to the quota.

        Raises `ConfigError`.
        """
        try:
            self._shelf = Shelf(self.root)
            self._shelf.open()
            self.root = self._shelf.root
            self._lock = os.open(self.root / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._shelf.tidy()
            for item in self._shelf.items():
                entry = self._entries[item.ref] = _Entry(item.path, item.bytes, item.used, item.used)
                for user, at in self._shelf.users(item.ref).items():
                    entry.users.put(user, at)
            self._make_room(self.bytes - self.max_bytes, OPERATOR, 0)
        except BlockingIOError:
            self._shelf.close()
            os.close(self._lock)
            raise ConfigError([f"store.path: {self.root} belongs to another running backend"]) from None
        except OSError as error:
            raise ConfigError([f"store.path: {self.root}: {error.strerror}"]) from None

    def close(self) -> None:
        """Let another process take the store."""
        delete_now(self.root / STAGING)
        self._shelf.close()
        os.close(self._lock)

    @property
    def bytes(self) -> int:
        """What the finished repos take."""
        self._forget_removed()
        return sum(entry.bytes for entry in self._entries.values())

    def find(self, ref: RepoRef) -> Path | None:
        """Where the repo at this sha lies, if it does."""
        entry = self._entries.get(ref)
        return entry.path if entry else None

    def hold(self, ref: RepoRef, user: str = "") -> Path:
        """Keep the repo on disk until `release`, for whom. Raises `KeyError` if it is not there."""
        entry = self._entries[ref]
        if not entry.holders and not self._take(ref, entry):
            del self._entries[ref]
            raise KeyError(ref)
        entry.holders += 1
        self._touch(entry)
        if entry.holders == 1:
            entry.held_since = entry.used
        self._used(ref, entry, user)
        return entry.path

    def release(self, ref: RepoRef) -> None:
        """Undo one `hold`; the repo may then make room for others."""
        entry = self._entries[ref]
        entry.holders -= 1
        self._touch(entry)
        if not entry.holders:
            self._shelf.unlock(ref)
            for user, at in entry.users.items():
                if at >= entry.held_since:
                    entry.users[user] = entry.used
            self._note(ref, entry)

    @contextmanager
    def staging(self) -> Iterator[Staging]:
        """A fresh directory to download into; whatever was not published goes at the end.

        Raises `StoreFullError` when the disk has no room even for that, and `OSError`.
        """
        try:
            staging = Staging(Path(tempfile.mkdtemp(dir=self.root / STAGING)))
        except OSError as error:
            if error.errno in _FULL:
                raise StoreFullError from None
            raise
        self._stagings.append(staging)
        try:
            yield staging
        finally:
            self._stagings.remove(staging)
            self.delete(staging.path)

    def reserve(self, staging: Staging, size: int) -> None:
        """Promise `size` bytes to a download; evicts what nobody holds, of whoever has to pay for it.

        Quota and disk must both have room for all that is promised. Raises `StoreFullError`, and then
        nothing was evicted.
        """
        others = [other for other in self._stagings if other is not staging]
        promised = size + sum(other.promised for other in others)
        arrived = sum(size_of(other.path) for other in self._stagings)
        over_quota = self.bytes + promised - self.max_bytes
        over_disk = promised - arrived - self.free(self.root)
        staging.promised = 0  # what an attempt before this one was promised
        staging.evicted += self._make_room(max(over_quota, over_disk), staging.taker, size)
        staging.promised = size

    def publish(self, staging: Staging, content: Path, ref: RepoRef) -> Path:
        """Make a finished, verified directory of the staging the repo at this sha.

        Raises `StoreFullError`, `OSError`.
        """
        try:
            target = self._shelf.put(content, ref, staging.files)
        except OSError as error:
            if error.errno in _FULL:
                raise StoreFullError from None
            raise
        entry = self._entries[ref] = _Entry(target, size_of(target), self.clock(), self.clock())
        self._touch(entry)
        self._used(ref, entry, staging.taker)
        staging.promised = 0
        return target

    def _make_room(self, excess: int, taker: str, size: int) -> tuple[RepoRef, ...]:
        """Evict until `excess` bytes are gone for `size` of this taker's. Raises `StoreFullError`."""
        if excess <= 0:
            return ()
        now = self.clock()
        things = [entry.thing(ref, now) for ref, entry in self._entries.items()]
        # What is on its way is somebody's too.
        things += [
            Thing(_ON_ITS_WAY, staging.promised, {staging.taker: 0.0}, 0, 0, busy=1)
            for staging in self._stagings
            if staging.promised and staging.taker
        ]
        shares = Shares(things, self.max_bytes, taker, size, self.residency)
        victims: list[tuple[RepoRef, Why]] = []
        for victim in shares.victims():
            ref = victim.thing.key
            if not self._shelf.pinned(ref) and self._shelf.lock(ref, exclusive=True):
                victims.append((ref, victim.why))
                excess -= self._entries[ref].bytes
                if excess <= 0:
                    break
        else:
            if taker == OPERATOR and not size:  # a lower quota: as far as it can be kept
                excess = 0
        if excess > 0:
            for ref, _ in victims:
                self._shelf.unlock(ref)
            raise StoreFullError(share_used=not shares.is_entitled)
        for ref, why in victims:
            self._evict(ref, why)
        return tuple(ref for ref, _ in victims)

    def _evict(self, ref: RepoRef, why: Why) -> None:
        entry = self._entries.pop(ref)
        try:
            self._shelf.remove(ref, self.delete)
        except FileNotFoundError:  # `hubgate backend store gc` was faster
            return
        finally:
            self._shelf.unlock(ref)
        self.evicted(why)
        log.info("store.evicted", repo=str(ref), bytes=entry.bytes, reason=why)

    def _take(self, ref: RepoRef, entry: _Entry) -> bool:
        """Lock it against removal by others; `False` if it is being removed, or gone."""
        if not self._shelf.lock(ref, exclusive=False):
            return False
        if entry.path.is_dir():
            return True
        self._shelf.unlock(ref)
        return False

    def _forget_removed(self) -> None:
        """Others may delete what nobody uses: `hubgate backend store gc`."""
        gone = [ref for ref, e in self._entries.items() if not e.holders and not e.path.is_dir()]
        for ref in gone:
            del self._entries[ref]

    def _used(self, ref: RepoRef, entry: _Entry, user: str) -> None:
        if not user:
            return
        is_new = user not in entry.users
        entry.users.put(user, entry.used)
        if is_new or entry.used - entry.noted > NOTED:
            self._note(ref, entry)

    def _note(self, ref: RepoRef, entry: _Entry) -> None:
        """For the next start of a backend; a disk that takes nothing now is no reason to refuse anybody."""
        if entry.users:
            with suppress(OSError):
                self._shelf.note_users(ref, entry.users)
                entry.noted = entry.used

    def _touch(self, entry: _Entry) -> None:
        entry.used = self.clock()
        os.utime(entry.path, (entry.used, entry.used))
