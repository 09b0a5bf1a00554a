"""How the Hub's API describes the files of a commit."""

from collections.abc import Iterable, Mapping

from hubgate.demo.git import Blob, Commit, tree_id
from hubgate.demo.repos import Repo


def sizes(blob: Blob) -> dict[str, object]:
    """Say how large a file is, in the words of `?blobs=true`."""
    facts: dict[str, object] = {"size": len(blob.content), "blobId": blob.oid}
    if blob.sha256 is not None:
        facts["lfs"] = {"sha256": blob.sha256, "size": len(blob.content), "pointerSize": blob.pointer_size}
    return facts


def _file(path: str, blob: Blob) -> dict[str, object]:
    """Say what a file is, in the words of `/tree`."""
    facts: dict[str, object] = {"type": "file", "oid": blob.oid, "size": len(blob.content), "path": path}
    if blob.sha256 is not None:
        facts["lfs"] = {"oid": blob.sha256, "size": len(blob.content), "pointerSize": blob.pointer_size}
    return facts


def entries(commit: Commit, folder: str, *, recursive: bool) -> list[dict[str, object]]:
    """List what lies in a folder ("" is the root): files, and the folders themselves."""
    prefix = f"{folder}/" if folder else ""
    inside = {path: blob for path, blob in commit.files.items() if path.startswith(prefix)}
    entries = [
        _file(path, blob) for path, blob in inside.items() if recursive or "/" not in path[len(prefix) :]
    ]
    entries += [
        {"type": "directory", "oid": tree_id(path, commit.files), "size": 0, "path": path}
        for path in _folders(inside, prefix)
        if recursive or "/" not in path[len(prefix) :]
    ]
    return sorted(entries, key=lambda entry: str(entry["path"]))


def _folders(paths: Iterable[str], prefix: str) -> set[str]:
    found = set()
    for path in paths:
        parts = path.split("/")[:-1]
        found |= {"/".join(parts[: depth + 1]) for depth in range(len(parts))}
    return {folder for folder in found if folder.startswith(prefix)}


def last_commit(repo: Repo, commit: Commit, entry: Mapping[str, object]) -> dict[str, object]:
    """Say, in the words of `?expand`, which commit gave a file of `commit` its content."""
    path = str(entry["path"])
    last = repo.last_change(commit, path) if path in commit.files else commit
    return {"lastCommit": {"id": last.sha, "title": last.title, "date": last.date}}
