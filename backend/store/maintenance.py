"""What `hubgate backend store` does with a store, whether its backend runs or not.

Nothing here takes the store's own lock, which is the running backend's. The lock of each repo is
enough: what a backend uses cannot be deleted, and what is being deleted cannot be taken into use.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hubgate.backend.admission.file_selection import CONFIG
from hubgate.backend.repo_files import RepoFile, agrees
from hubgate.backend.store.layout import Item, Shelf, delete_now
from hubgate.wire.repo import RepoRef


@dataclass(frozen=True, slots=True)
class Row:
    """One repo, as `ls` shows it."""

    item: Item
    kind: str  # adapter or base
    pinned: bool
    in_use: bool


@contextmanager
def shelf_at(path: Path) -> Iterator[Shelf]:
    """The store in this directory. Raises `OSError`, and `FileNotFoundError` if there is none."""
    if not path.is_dir():
        raise FileNotFoundError(path)
    shelf = Shelf(path)
    shelf.open()
    try:
        yield shelf
    finally:
        shelf.close()


def rows(shelf: Shelf) -> list[Row]:
    """All repos, what was used last first."""
    found = sorted(shelf.items(), key=lambda item: item.used, reverse=True)
    return [Row(item, _kind(item), shelf.pinned(item.ref), shelf.in_use(item.ref)) for item in found]


def collect(shelf: Shelf, keep: int) -> Iterator[Item]:
    """Delete what was used longest ago until `keep` bytes are left; yields each as it is gone.

    What is pinned or in use stays, so more may be left.
    """
    items = sorted(shelf.items(), key=lambda item: item.used)
    excess = sum(item.bytes for item in items) - keep
    for item in items:
        if excess <= 0:
            return
        if not shelf.pinned(item.ref) and remove(shelf, item.ref):
            excess -= item.bytes
            yield item


def remove(shelf: Shelf, ref: RepoRef) -> bool:
    """Delete one repo; `False` if it is in use or gone already."""
    if not shelf.lock(ref, exclusive=True):
        return False
    try:
        shelf.remove(ref, delete_now)
    except FileNotFoundError:
        return False
    finally:
        shelf.unlock(ref)
    return True


def damaged(shelf: Shelf, item: Item, read: Callable[[int], None]) -> list[str] | None:
    """The files that are not what the Hub listed, or not there; `None` if no hashes were recorded.

    Nobody can delete it meanwhile. `read` hears of every block that was read, in bytes.
    """
    record = shelf.record(item.ref)
    if record is None:
        return None
    if not shelf.lock(item.ref, exclusive=False):
        return []  # it is being deleted at this moment
    try:
        return [file.name for file in record if not _is_whole(item.path, file, read)]
    finally:
        shelf.unlock(item.ref)


def _is_whole(directory: Path, file: RepoFile, read: Callable[[int], None]) -> bool:
    try:
        return agrees(directory, file, read)
    except OSError:
        return False


def _kind(item: Item) -> str:
    return "adapter" if (item.path / CONFIG).exists() else "base"
