"""Which names the Hub's accounts have been seen under, and whose a configured name is: over restarts.

A file of JSON lines beside the audit trail, and the same in memory. A line is appended when something new
is seen, and is on the disk before anybody is let in because of it. Nothing is ever taken out: a later line
about a name replaces an earlier one. Whoever may write the file decides whose the names are, as with the
configuration.
"""

import asyncio
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, Literal

import msgspec

Kind = Literal["user", "org"]

# Users, and organizations, whose names are remembered beside those of configured names: 10 MB of each.
CAPACITY: Final = 100_000


class NameBookError(Exception):
    """The file that is there is not one of names."""


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One line: the account of this id was seen under this name; `kept`: the name is its from then on."""

    kind: Kind
    name: str
    id: str
    kept: bool = False


def by_name(kind: Kind, name: str) -> str:
    """What stands for a name in sets of them."""
    return f"{kind}:{name}"


def by_id(kind: Kind, account: str) -> str:
    """What stands for an id; never the same as for a name."""
    return f"{kind}={account}"


def beside(audit: Path) -> Path:
    """Where the names are that belong to an audit trail."""
    return audit.with_name(audit.name + ".names")


def read(path: Path) -> Mapping[str, str]:
    """Whose each kept name is, without touching the file; nothing if there is none yet.

    Raises `NameBookError`, `OSError`.
    """
    try:
        lines, _ = _whole(path, path.read_bytes())
    except FileNotFoundError:
        return {}
    return {by_name(line.kind, line.name): line.id for line in lines if line.kept}


class NameBook:
    """The names of accounts by id, and the owners of names. One process has it open, as with the audit."""

    def __init__(self, path: Path) -> None:
        """Raises `NameBookError`, `OSError`."""
        self._names: dict[Kind, dict[str, dict[str, None]]] = {"user": {}, "org": {}}  # by id
        self._owners: dict[str, str] = {}  # ids, by `by_name`
        self._unsaved: dict[Line, None] = {}  # in order
        self._saving = asyncio.Lock()
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with open(self._fd, "rb", closefd=False) as file:
                lines, self._end = _whole(path, file.read())
            _sync_folder(path)
        except BaseException:
            os.close(self._fd)
            raise
        for line in lines:
            self._enter(line)

    async def close(self) -> None:
        """Let what is being written end; nothing can be saved afterwards."""
        async with self._saving:
            os.close(self._fd)
            self._fd = -1

    def names(self, kind: Kind, account: str) -> Iterable[str]:
        """Every name that this id was seen under."""
        return self._names[kind].get(account, ())

    def owner(self, kind: Kind, name: str) -> str | None:
        """The id that the name is kept for."""
        return self._owners.get(by_name(kind, name))

    def see(self, kind: Kind, name: str, account: str, *, always: bool) -> None:
        """Remember that the id has this name: `always`, or while there is room for more."""
        known = name in self.names(kind, account)
        if not known and (always or len(self._names[kind]) < CAPACITY):
            self._add(Line(kind, name, account))

    def keep(self, kind: Kind, name: str, account: str) -> None:
        """The name is this id's from now on."""
        if self.owner(kind, name) != account:
            self._add(Line(kind, name, account, kept=True))

    def saved(self, kind: Kind, name: str) -> bool:
        """Whether what is known of the name's owner is on the disk."""
        owner = self.owner(kind, name)
        return owner is None or Line(kind, name, owner, kept=True) not in self._unsaved

    async def save(self) -> None:
        """Write what is new, together with what others wait for. Raises `OSError`; it is tried again then."""
        while self._unsaved:
            async with self._saving:
                lines = list(self._unsaved)
                if lines:
                    await asyncio.to_thread(self._write, b"".join(_encoded(lines)))
                for line in lines:
                    del self._unsaved[line]

    def _add(self, line: Line) -> None:
        self._enter(line)
        self._unsaved[line] = None

    def _enter(self, line: Line) -> None:
        self._names[line.kind].setdefault(line.id, {})[line.name] = None
        if line.kept:
            self._owners[by_name(line.kind, line.name)] = line.id

    def _write(self, data: bytes) -> None:
        # Over what a kill or an earlier attempt left after the last whole line; a rest of that has no end.
        written = 0
        while written < len(data):
            written += os.pwrite(self._fd, data[written:], self._end + written)
        os.fdatasync(self._fd)
        self._end += written


def _encoded(lines: Iterable[Line]) -> Iterator[bytes]:
    for line in lines:
        yield msgspec.json.encode(line) + b"\n"


def _whole(path: Path, data: bytes) -> tuple[list[Line], int]:
    """The lines, and where the last whole one ends.

    Half a line at the end comes of a kill while it was written: nobody was let in because of it.
    """
    end = data.rfind(b"\n") + 1
    lines = []
    for number, text in enumerate(data[:end].split(b"\n")[:-1], start=1):
        try:
            lines.append(msgspec.json.decode(text, type=Line))
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise NameBookError(
                f"{path}: line {number} is damaged, so whose the configured names are is not known. "
                f"Restore the file, or move it away and write the ids into the configuration"
            ) from None
    return lines, end


def _sync_folder(path: Path) -> None:
    """A new file survives a power cut when its folder is on the disk too."""
    fd = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
