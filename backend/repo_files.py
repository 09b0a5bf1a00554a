"""Files as the Hub lists them, and whether a file on the disk is the one that was listed.

The hash is sha256 for LFS files, and a git blob's sha1 for all others.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec

BLOCK = 1 << 22  # bytes read at once


class RepoFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file as the Hub lists it. `sha256` is that of an LFS file, `blob` a git blob's sha1."""

    name: str
    size: Annotated[int, msgspec.Meta(ge=0, le=2**62)] | None
    sha256: str | None = None
    blob: str | None = None


def agrees(directory: Path, file: RepoFile, read: Callable[[int], None]) -> bool:
    """Whether the file in the directory is the one that the Hub lists. `read` hears of each block.

    A link is never that file, wherever it leads. Raises `OSError` if it cannot be read.
    """
    path = directory / file.name
    if path.is_symlink() or not path.is_file() or path.stat().st_size != file.size:
        return False
    # A blob's hash covers a header of its own (gitformat: "blob <size>\0").
    digest = hashlib.sha256() if file.sha256 else hashlib.sha1(b"blob %d\0" % file.size)  # noqa: S324
    with path.open("rb") as content:
        while block := content.read(BLOCK):
            digest.update(block)
            read(len(block))
    return digest.hexdigest() == (file.sha256 or file.blob)
