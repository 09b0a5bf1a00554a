"""All that a stack holds of the machine: what two stacks in the same state must hold alike."""

import asyncio
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import psutil

KEPT = 4  # ends of idle connections that one run may have kept and another not; all are in this process

# Tasks that come and go while nobody asks for anything: aiohttp's for each connection that it accepted, and
# those that look around.
_PASSING = ("RequestHandler.start", "Upstream._hello", "Upstream._after", "_look")


@dataclass(frozen=True, slots=True)
class Footprint:
    """Of this process with all of the stack in it, and of its children."""

    processes: int
    connections: int  # sockets, the tasks that serve them, and those that ask over them
    handles: dict[str, int]  # files of the stack by name, all others by kind
    tasks: dict[str, int]
    leftovers: tuple[str, ...]  # partial files, stagings; scratch directories of children that are gone

    def beyond(self, calm: "Footprint") -> list[str]:
        """What it has that a calm one has not, or lacks; a few kept connections are no difference."""
        names = ("processes", "handles", "tasks", "leftovers")
        pairs = [(name, getattr(self, name), getattr(calm, name)) for name in names]
        found = [f"{name}: {here} instead of {there}" for name, here, there in pairs if here != there]
        if self.connections > calm.connections + KEPT:
            found.append(f"connections: {self.connections} instead of {calm.connections}")
        return found

    @classmethod
    def of(cls, folder: Path) -> "Footprint":
        """As it is at this moment, of a stack in this folder."""
        processes = sum([_is_of(child, folder) for child in psutil.Process().children(recursive=True)])
        handles, tasks = _handles(folder), _tasks()
        connections = handles.pop("socket", 0) + sum([tasks.pop(name, 0) for name in _PASSING])
        return cls(processes, connections, dict(handles), dict(tasks), _leftovers(folder, processes))


def _is_of(child: psutil.Process, folder: Path) -> bool:
    """Whether it was started by the stack in this folder, and not by a test before; see `Stack`."""
    try:
        return child.environ().get("PYTHONPATH", "").startswith(str(folder))
    except psutil.Error:  # it has just ended
        return False


def _handles(folder: Path) -> Counter[str]:
    found: Counter[str] = Counter()
    for entry in os.scandir("/proc/self/fd"):
        try:
            target = Path(entry.path).readlink()
        except OSError:  # of this very scan
            continue
        kind = target.relative_to(folder) if target.is_relative_to(folder) else target
        found[str(kind).partition(":")[0]] += 1
    return found


def _tasks() -> Counter[str]:
    own = asyncio.current_task()  # of whichever test is looking
    coroutines = [task.get_coro() for task in asyncio.all_tasks() if task is not own]
    return Counter(getattr(coroutine, "__qualname__", "?") for coroutine in coroutines)


def _leftovers(folder: Path, processes: int) -> tuple[str, ...]:
    partial = [str(path) for path in folder.rglob("*.incomplete")]
    staged = [str(path) for path in folder.glob("store/.staging/*")]
    scratch = [str(path) for path in folder.glob("scratch/*")]
    # Each child of ours has one, and a reaper beside it.
    return (*partial, *staged, *(scratch if 2 * len(scratch) != processes else ()))
