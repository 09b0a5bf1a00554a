"""Runs work in processes of its own, forked from one with the libraries loaded, several at once."""

import gc
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing import connection, get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Generic, TypeVar

import pytest

Thing = TypeVar("Thing")

# Slow to import, and none of them imports anything of ours.
LIBRARIES = (
    "aiohttp.web", "anthropic", "click", "huggingface_hub", "hypothesis", "joserfc.jwe", "joserfc.jws",
    "msgspec.json", "numpy", "openai", "prometheus_client.parser", "psutil", "pydantic_settings",
    "pytest_aiohttp", "pytest_asyncio", "pytest_timeout", "redis.asyncio", "rich", "safetensors.numpy",
    "structlog", "uvloop", "xdist", "yaml",
)  # fmt: skip
PATIENCE = 600.0  # seconds for one process; what its tests are given ends it long before
MEMORY = 8 * 1024**3  # bytes of address space: a mutant that allocates without end is killed too

BROKEN = 70  # exit status where the work itself raised, which is a defect here and says nothing of a mutant

# A test that hangs ends the process (exit status 1): the loop's own handler would swallow a signal's.
OPTIONS = (
    "-q", "-n0", "-p", "no:cacheprovider", "-o", "timeout_method=thread",
    "-W", "ignore::pytest.PytestAssertRewriteWarning",
)  # fmt: skip


@dataclass(frozen=True)
class End:
    """How a process ended: its status as `multiprocessing` gives it (`None`: out of patience)."""

    status: int | None
    folder: Path  # its scratch folder, with its `log`; gone once the end was told

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-4000:]


@dataclass(eq=False)
class _Fork(Generic[Thing]):
    thing: Thing
    process: BaseProcess
    folder: Path
    since: float = field(default_factory=time.monotonic)


def load_libraries() -> None:
    """Import what every test needs and nothing of ours, once. Starts no thread, for forks follow."""
    for name in LIBRARIES:
        import_module(name)
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        pytest.main([*OPTIONS, "--collect-only", str(Path(__file__).with_name("test_mutants.py"))])
    ours = [name for name in sys.modules if name.startswith(("hubgate.proxy", "hubgate.wire"))]
    if ours:
        raise RuntimeError(f"loaded before they could be mutated: {ours}")
    gc.freeze()


class Forks(Generic[Thing]):
    """Does the work on each thing in a process of its own, and tells its end."""

    def __init__(
        self,
        work: Callable[[Thing, Path], int],
        tell: Callable[[Thing, End], None],
        *,
        scratch: Path,
        jobs: int,
    ) -> None:
        self._work = work  # is given a folder of its own; its result is the exit status
        self._tell = tell
        self._scratch = scratch
        self._jobs = jobs
        self._running = set[_Fork[Thing]]()
        self._number = 0

    def run(self, things: Iterable[Thing]) -> None:
        """Do all of it."""
        waiting = iter(things)
        try:
            while self._fill(waiting):
                connection.wait([fork.process.sentinel for fork in self._running], timeout=1)
                for fork in [fork for fork in self._running if _is_over(fork)]:
                    self._running.remove(fork)
                    self._tell(fork.thing, _end(fork))
                    shutil.rmtree(fork.folder, ignore_errors=True)
        finally:
            for fork in self._running:
                _end(fork)

    def _fill(self, waiting: Iterator[Thing]) -> bool:
        while len(self._running) < self._jobs and (thing := next(waiting, None)) is not None:
            self._number += 1
            self._running.add(_start(thing, self._work, self._scratch / str(self._number)))
        return bool(self._running)


def _start(thing: Thing, work: Callable[[Thing, Path], int], folder: Path) -> _Fork[Thing]:
    folder.mkdir()
    process = get_context("fork").Process(target=_inside, args=(thing, work, folder))
    process.start()
    return _Fork(thing, process, folder)


def _inside(thing: Thing, work: Callable[[Thing, Path], int], folder: Path) -> None:
    os.setsid()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    status = BROKEN
    try:
        status = work(thing, folder)
    except BaseException:  # noqa: BLE001 - told by the exit status
        os.write(log, traceback.format_exc().encode())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _is_over(fork: _Fork[Thing]) -> bool:
    return not fork.process.is_alive() or time.monotonic() - fork.since > PATIENCE


def _end(fork: _Fork[Thing]) -> End:
    late = fork.process.is_alive()
    if fork.process.pid is not None:
        with suppress(ProcessLookupError):
            os.killpg(fork.process.pid, signal.SIGKILL)  # with what its tests started
    fork.process.kill()
    fork.process.join()
    return End(None if late else fork.process.exitcode, fork.folder)
