"""Runs tests against mutants, each in a process of its own, forked from one with the libraries loaded."""

import gc
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, field
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from multiprocessing import connection, get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import CodeType, ModuleType
from typing import Literal

import pytest

from tests.mutation.mutants import Mutant

Fate = Literal["killed", "survived", "timeout"]
Tests = tuple[list[str], ...]  # those of a later list are run if all of the earlier ones pass
Tell = Callable[[Mutant | None, Fate, str], None]

# Slow to import, and none of them imports anything of ours.
LIBRARIES = (
    "aiohttp.web", "anthropic", "click", "huggingface_hub", "hypothesis", "joserfc.jwe", "joserfc.jws",
    "msgspec.json", "numpy", "openai", "prometheus_client.parser", "psutil", "pydantic_settings",
    "pytest_aiohttp", "pytest_asyncio", "pytest_timeout", "redis.asyncio", "rich", "safetensors.numpy",
    "structlog", "uvloop", "xdist", "yaml",
)  # fmt: skip
PATIENCE = 150.0  # seconds for all tests of a mutant; pytest-timeout ends a single one sooner
MEMORY = 8 * 1024**3  # bytes of address space: a mutant that allocates without end is killed too

_OPTIONS = (
    "-x", "-q", "-n0", "-p", "no:cacheprovider", "-o", "timeout=20",
    "-W", "ignore::pytest.PytestAssertRewriteWarning",
)  # fmt: skip


@dataclass(eq=False)
class _Trial:
    mutant: Mutant | None
    tests: Tests
    process: BaseProcess
    scratch: Path
    since: float = field(default_factory=time.monotonic)


def load_libraries() -> None:
    """Import what every test needs and nothing of ours, once. Starts no thread, for forks follow."""
    for name in LIBRARIES:
        import_module(name)
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        pytest.main([*_OPTIONS, "--collect-only", str(Path(__file__).with_name("test_mutants.py"))])
    ours = [name for name in sys.modules if name.partition(".")[0] in ("proxy", "wire")]
    if ours:
        raise RuntimeError(f"loaded before they could be mutated: {ours}")
    gc.freeze()


def run(
    work: Iterable[tuple[Mutant | None, tuple[list[str], ...]]],
    scratch: Path,
    jobs: int,
    tell: Tell,
) -> None:
    """Try each mutant (`None` is the code as it is) and tell its fate, and what pytest said last."""
    running = set[_Trial]()
    try:
        _run(iter(work), running, scratch, jobs, tell)
    finally:
        for trial in running:
            _fate(trial)


def _run(
    waiting: Iterator[tuple[Mutant | None, Tests]], running: set[_Trial], scratch: Path, jobs: int, tell: Tell
) -> None:
    number = 0
    while True:
        while len(running) < jobs and (item := next(waiting, None)) is not None:
            number += 1
            running.add(_start(*item, scratch / str(number)))
        if not running:
            return
        connection.wait([trial.process.sentinel for trial in running], timeout=1)
        for trial in [trial for trial in running if _is_over(trial)]:
            running.remove(trial)
            fate = _fate(trial)
            tell(trial.mutant, fate, (trial.scratch / "log").read_text(errors="replace")[-4000:])
            shutil.rmtree(trial.scratch, ignore_errors=True)


def _start(mutant: Mutant | None, tests: Tests, scratch: Path) -> _Trial:
    process = get_context("fork").Process(target=_try, args=(mutant, tests, scratch))
    process.start()
    return _Trial(mutant, tests, process, scratch)


def _is_over(trial: _Trial) -> bool:
    return not trial.process.is_alive() or time.monotonic() - trial.since > PATIENCE


def _fate(trial: _Trial) -> Fate:
    process = trial.process
    late = process.is_alive()
    if process.pid is not None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with what its tests started
    process.kill()
    process.join()
    if late:
        return "timeout"
    return "survived" if process.exitcode == 0 else "killed"


def _try(mutant: Mutant | None, tests: Tests, scratch: Path) -> None:
    """In the forked process: end with 0 if no test fails."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    scratch.mkdir()
    silence = os.open(scratch / "log", os.O_WRONLY | os.O_CREAT)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    if mutant is not None:
        sys.meta_path.insert(0, _Swap(mutant.path, mutant.compile()))
    for n, files in enumerate(tests):
        if files and (code := pytest.main([*_OPTIONS, f"--basetemp={scratch}/{n}", *files])):
            sys.stdout.flush()
            os._exit(int(code))
    os._exit(0)


class _Swap(MetaPathFinder, Loader):
    """Puts the mutated code in the place of one module."""

    def __init__(self, path: str, code: CodeType) -> None:
        self._name = path.removesuffix(".py").replace("/", ".")
        self._code = code
        self._origin = str(Path(path).resolve())

    def find_spec(self, fullname: str, _path: object, _target: object = None) -> ModuleSpec | None:
        if fullname != self._name:
            return None
        return spec_from_loader(fullname, self, origin=self._origin)

    def create_module(self, spec: ModuleSpec) -> None:
        """As usual."""

    def exec_module(self, module: ModuleType) -> None:
        module.__file__ = self._origin
        exec(self._code, module.__dict__)  # noqa: S102 - our own code, changed
