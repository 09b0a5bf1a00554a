"""Which trails somebody means who names files, folders or patterns: several proxies may share one folder."""

from collections.abc import Iterable
from pathlib import Path

HEAD = ".head"  # what `hubgate.proxy.audit.chain` keeps beside a trail


class NoTrailError(ValueError):
    """There is no trail there. The text says where."""


def find(named: Iterable[str]) -> list[Path]:
    """The trails, each once, in order of their names. Raises `NoTrailError`.

    In a folder they are the files that have a head, or are called `*.jsonl`; one that is gone from beside its
    head is among them. A pattern is expanded here too, for who has no shell.
    """
    found: set[Path] = set()
    for name in named:
        path = Path(name)
        if path.is_dir():
            trails = _inside(path)
        elif not path.exists() and any(wildcard in name for wildcard in "*?["):
            trails = {one for one in _matching(path) if not one.name.endswith((HEAD, ".names"))}
        else:
            trails = {path} if path.exists() or _head(path).exists() else set()
        if not trails:
            raise NoTrailError(f"{name}: there is no audit trail")
        found |= trails
    return sorted(found)


def _inside(folder: Path) -> set[Path]:
    heads = {head.with_name(head.name.removesuffix(HEAD)) for head in folder.glob("*" + HEAD)}
    return heads | set(folder.glob("*.jsonl"))


def _matching(pattern: Path) -> Iterable[Path]:
    start = Path(pattern.anchor) if pattern.anchor else Path()
    return start.glob(str(pattern.relative_to(pattern.anchor)))


def _head(path: Path) -> Path:
    return path.with_name(path.name + HEAD)
