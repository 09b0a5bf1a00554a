"""Compares files with the hashes that the Hub lists: sha256 for LFS files, a git blob's sha1 for others."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from backend.jobs import File

BLOCK = 1 << 22  # bytes read at once


def agrees(directory: Path, file: File, read: Callable[[int], None]) -> bool:
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
