"""The lock-outs that a proxy knows, in a file beside its audit, so that they outlive a restart."""

import os
import threading
from pathlib import Path
from typing import Final

import msgspec

from hubgate.proxy.auth.block import Block
from hubgate.proxy.blocks.shared import Version

MAX_BYTES: Final = (
    32 * 1024 * 1024
)  # ten thousand lock-outs with the longest reasons are less than half of it


class BlockFileError(Exception):
    """What lies there is no list of lock-outs."""


class Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a proxy knows of the list."""

    blocks: tuple[Block, ...] = ()
    seen: Version | None = None  # of the shared list, when it was last read
    unstored: tuple[str, ...] = ()  # which of the blocks the shared list has not got yet
    known: bool = True  # whether there ever was a list to go by, or these are what this proxy alone was told


class BlockFile:
    """One file, written in one step; this proxy's alone, as its audit is."""

    def __init__(self, audit: Path) -> None:
        self.path = audit.with_name(audit.name + ".blocks")
        self._lock = threading.Lock()  # a thread writes on though nobody waits for it any more

    def read(self) -> Kept | None:
        """What was last written; `None` if nothing was. Raises `BlockFileError`."""
        try:
            with self.path.open("rb") as file:
                data = file.read(MAX_BYTES)
            return msgspec.json.decode(data, type=Kept)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BlockFileError(f"{self.path}: {error.strerror}") from None
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise BlockFileError(
                f"{self.path}: is no list of lock-outs; move it away, and lock out anew whom it should name"
            ) from None

    def write(self, kept: Kept) -> None:
        """Write it so that a crash leaves the old list or the new one. Raises `OSError`."""
        with self._lock:
            self._write(kept)

    def _write(self, kept: Kept) -> None:
        scratch = self.path.with_name(self.path.name + ".new")
        fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(msgspec.json.encode(kept))
            file.flush()
            os.fsync(fd)
        scratch.replace(self.path)
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
