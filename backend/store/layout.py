"""What lies in a store's directory: for the backend that owns it, and for commands that look after it.

    <org>/<name>/<sha>/   a whole repo at one commit; its files are read-only
    .records/             the Hub's hashes of each, to compare with later
    .users/               who had each loaded, and when: pseudonyms and seconds since the epoch
    .pins/                an empty file for each repo that is to stay
    .staging/             downloads under way, and what is being deleted
    .use                  one byte for each repo, locked by whoever uses it

Who uses a repo holds a shared lock on its byte; who deletes it, an exclusive one. The kernel drops a
lock with the process that held it, so nothing is left behind by a crash (fcntl(2), open file
description locks: unlike POSIX ones, they also count between two users in one process).
"""

import fcntl
import hashlib
import os
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from hubgate.backend.repo_files import RepoFile
from hubgate.wire.repo import InvalidRepoError, RepoRef

# No repo can be called like these: an organization begins with a letter or digit.
STAGING = ".staging"
RECORDS = ".records"
USERS = ".users"
PINS = ".pins"
USE = ".use"

Delete = Callable[[Path], object]

_FLOCK = "hhqqi4x"  # struct flock: type, whence, start, len, pid


@dataclass(frozen=True, slots=True)
class Item:
    """One repo at one commit. Bytes on the disk; `used` in seconds since the epoch."""

    ref: RepoRef
    path: Path
    bytes: int
    used: float


@dataclass(slots=True)
class Shelf:
    """The directory, its names and its locks. Methods raise `OSError` unless they say otherwise."""

    root: Path
    _use: int = field(default=-1, init=False)

    def open(self) -> None:
        """Make what is missing; nobody but this user may look in."""
        self.root = self.root.absolute()
        self.root.mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o700)
        for name in (STAGING, RECORDS, USERS, PINS):
            (self.root / name).mkdir(mode=0o700, exist_ok=True)
        self._use = os.open(self.root / USE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def close(self) -> None:
        """Let go of every lock."""
        os.close(self._use)

    def place(self, ref: RepoRef) -> Path:
        """Where the repo lies, if it does. Raises `ValueError` for what is not at a commit."""
        if not ref.pinned or ref.revision is None:
            raise ValueError("only a repo at a commit sha has a place in the store")
        return self.root / ref.org / ref.name / ref.revision

    def items(self) -> Iterator[Item]:
        """All repos, in the order of their names. What is not named as we name is not ours."""
        for path in sorted(self.root.glob("*/*/*")):
            with suppress(InvalidRepoError):
                ref = RepoRef.parse("{}/{}@{}".format(*path.parts[-3:]))
                if ref.pinned and path.is_dir() and not path.is_symlink():
                    yield Item(ref, path, size_of(path), path.stat().st_mtime)

    def put(self, content: Path, ref: RepoRef, files: tuple[RepoFile, ...]) -> Path:
        """Make a verified directory of the same file system the repo at this commit, in one step."""
        target = self.place(ref)
        for path in content.rglob("*"):
            if path.is_file():
                path.chmod(0o400)
        record = self._record(ref)
        half = record.with_suffix(".half")
        half.write_bytes(msgspec.json.encode(files))
        half.rename(record)
        target.parent.mkdir(parents=True, exist_ok=True)
        content.rename(target)
        return target

    def remove(self, ref: RepoRef, delete: Delete) -> None:
        """Take the repo away and delete it, for whoever has locked it for that."""
        path = self.place(ref)
        # Away in one step: after a crash half of it must not look whole.
        grave = Path(tempfile.mkdtemp(dir=self.root / STAGING))
        path.rename(grave / "removed")
        self._record(ref).unlink(missing_ok=True)
        self._users(ref).unlink(missing_ok=True)
        delete(grave)
        for parent in (path.parent, path.parent.parent):
            with suppress(OSError):  # other revisions or repos are still in it
                parent.rmdir()

    def record(self, ref: RepoRef) -> tuple[RepoFile, ...] | None:
        """What the Hub said of each file when it was fetched; `None` if that is not known."""
        try:
            return msgspec.json.decode(self._record(ref).read_bytes(), type=tuple[RepoFile, ...])
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def users(self, ref: RepoRef) -> dict[str, float]:
        """Who had it loaded when; empty if that is not known."""
        try:
            return msgspec.json.decode(self._users(ref).read_bytes(), type=dict[str, float])
        except (OSError, ValueError):
            return {}

    def note_users(self, ref: RepoRef, users: Mapping[str, float]) -> None:
        """Remember it. What a crash leaves of this is worth nothing, and breaks nothing."""
        half = self._users(ref).with_suffix(".half")
        half.write_bytes(msgspec.json.encode(users))
        half.rename(self._users(ref))

    def tidy(self) -> None:
        """Drop what a crash left: unfinished downloads, half deletions, records of what is gone."""
        shutil.rmtree(self.root / STAGING, ignore_errors=True)
        (self.root / STAGING).mkdir(mode=0o700, exist_ok=True)
        there = [item.ref for item in self.items()]
        known = {*map(self._record, there), *map(self._users, there)}
        for path in (*(self.root / RECORDS).iterdir(), *(self.root / USERS).iterdir()):
            if path not in known:
                path.unlink(missing_ok=True)

    def pinned(self, ref: RepoRef) -> bool:
        """Whether the operator wants it to stay."""
        return (self.root / PINS / _flat(ref)).exists()

    def pin(self, ref: RepoRef) -> None:
        """From now on it stays, whether it is there already or not."""
        (self.root / PINS / _flat(ref)).touch(mode=0o600)

    def unpin(self, ref: RepoRef) -> None:
        """It may make room again."""
        (self.root / PINS / _flat(ref)).unlink(missing_ok=True)

    def lock(self, ref: RepoRef, *, exclusive: bool) -> bool:
        """Lock it, or turn the lock that we have into this one; `False` if others are in the way."""
        try:
            self._fcntl(fcntl.F_OFD_SETLK, ref, fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK)
        except BlockingIOError:
            return False
        return True

    def unlock(self, ref: RepoRef) -> None:
        """Let go of it."""
        self._fcntl(fcntl.F_OFD_SETLK, ref, fcntl.F_UNLCK)

    def in_use(self, ref: RepoRef) -> bool:
        """Whether anybody else uses it now."""
        answer = self._fcntl(fcntl.F_OFD_GETLK, ref, fcntl.F_WRLCK)
        return bool(struct.unpack(_FLOCK, answer[: struct.calcsize(_FLOCK)])[0] != fcntl.F_UNLCK)

    def _fcntl(self, command: int, ref: RepoRef, kind: int) -> bytes:
        # Two repos whose bytes coincide would merely wait for each other.
        start = int.from_bytes(hashlib.sha256(str(ref).encode()).digest()[:7], "big")
        return fcntl.fcntl(self._use, command, struct.pack(_FLOCK, kind, os.SEEK_SET, start, 1, 0))

    def _users(self, ref: RepoRef) -> Path:
        return self.root / USERS / f"{_flat(ref)}.json"

    def _record(self, ref: RepoRef) -> Path:
        return self.root / RECORDS / f"{_flat(ref)}.json"


def delete_now(directory: Path) -> None:
    """Delete a directory with all that is in it, as far as that can be done."""
    shutil.rmtree(directory, ignore_errors=True)


def size_of(directory: Path) -> int:
    """Bytes of all files in it. Those that move or vanish while we look count or do not."""
    total = 0
    for path in directory.rglob("*"):
        with suppress(OSError):
            total += 0 if path.is_dir() else path.lstat().st_size
    return total


def _flat(ref: RepoRef) -> str:
    # Unambiguous: the Hub's names hold no "--".
    return f"{ref.org}--{ref.name}--{ref.revision}"
