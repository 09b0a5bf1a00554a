"""What a repo's history is made of: blobs, commits and their ids, computed as git and git-lfs do."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

LFS_SUFFIXES: Final = (".safetensors", ".bin")
MAIN: Final = "refs/heads/main"


@dataclass(frozen=True, slots=True)
class Blob:
    """One file. `oid` is the id of what git itself stores: for a large file, of the pointer to it."""

    content: bytes = field(repr=False)
    oid: str
    sha256: str | None
    """Of the content; None for a file that is not LFS."""
    pointer_size: int
    """Bytes of the LFS pointer; 0 for a file that is not LFS."""

    @property
    def etag(self) -> str:
        """What the Hub's ETag quotes: sha256 for LFS, else the git id."""
        return self.sha256 or self.oid


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit: all files of the repo at that point."""

    sha: str
    parent: str | None
    title: str
    author: str
    date: str
    """ISO 8601 with milliseconds and Z, as the Hub writes it."""
    files: Mapping[str, Blob] = field(repr=False)


def blob(path: str, content: bytes) -> Blob:
    """Store `content` as git would at `path`: as it is, or as a pointer to a large file."""
    if not path.endswith(LFS_SUFFIXES):
        return Blob(content, _object_id("blob", content), None, 0)
    sha256 = hashlib.sha256(content).hexdigest()
    pointer = (
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(content)}\n".encode()
    )
    return Blob(content, _object_id("blob", pointer), sha256, len(pointer))


def commit(files: Mapping[str, Blob], *, parent: str | None, title: str, author: str, date: str) -> Commit:
    """Make a commit. Its sha (40 hex) follows from everything in it; it is not a real git repo's."""
    lines = [f"parent {parent}", f"author {author}", f"date {date}", title]
    lines += [f"{path}\0{files[path].oid}" for path in sorted(files)]
    sha = _object_id("commit", "\n".join(lines).encode())
    return Commit(sha, parent, title, author, date, dict(sorted(files.items())))


def tree_id(folder: str, files: Mapping[str, Blob]) -> str:
    """Give an id for a folder: it changes with whatever lies in it."""
    inside = [f"{path}\0{files[path].oid}" for path in sorted(files) if path.startswith(f"{folder}/")]
    return _object_id("tree", "\n".join(inside).encode())


def _object_id(kind: str, content: bytes) -> str:
    return hashlib.sha1(f"{kind} {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()
