"""Tries one mutant in a process of its own, and says what became of it.

A test that fails is asked once more, alone, and a mutant whose tests hang is tried once more with a longer
limit, so that neither chance nor a busy machine kills. Endless loops end by the time of the processor.
"""

import resource
import signal
import sys
from dataclasses import dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from itertools import groupby
from pathlib import Path
from types import CodeType, ModuleType
from typing import Literal

import pytest

from tests.mutation.forks import BROKEN, OPTIONS, End
from tests.mutation.mutants import Mutant
from tests.mutation.record import Judge

Fate = Literal["killed", "survived", "timeout"]

HANGS = 10  # seconds of one test; those of the code as it is take at most one or two
HANGS_AGAIN = 30  # the same, the second time
LOOPS = 30  # seconds of the processor, beyond three times what the tests take

_HUNG = 1  # exit status where a test hung; pytest's own codes stay inside
_KILLED = 10


@dataclass(frozen=True)
class Trial:
    """A mutant, the tests that are asked about it, in order, and the seconds that one of them may hang."""

    mutant: Mutant
    judges: list[Judge]
    known: frozenset[str]  # the ids of all tests; where a mutant changes an id, the test is asked as well
    hangs: int = HANGS


def attempt(trial: Trial, folder: Path) -> int:
    """In the forked process: the status to end it with."""
    loops = LOOPS + int(3 * sum(judge.seconds for judge in trial.judges))
    resource.setrlimit(resource.RLIMIT_CPU, (loops, loops + 5))
    sys.meta_path.insert(0, _Swap(trial.mutant.path, trial.mutant.compile()))
    killed = any(
        _kills(file, [judge.id for judge in judges], trial, folder)
        for file, judges in groupby(trial.judges, key=lambda judge: judge.file)
    )
    return _KILLED if killed else 0


def _kills(file: str, judges: list[str], trial: Trial, folder: Path) -> bool:
    """Whether one of these tests of the file fails, twice."""
    wavered: frozenset[str] = frozenset()
    while True:
        first = _Asked([judge for judge in judges if judge not in wavered], trial.known | wavered)
        if first.run(file, trial.hangs, folder):
            return False
        if first.failed is None:
            return True  # the file cannot even be imported
        wavered |= {first.failed}
        again = _Asked([first.failed], trial.known | wavered)
        if not again.run(file, trial.hangs, folder):
            return True


def fate(end: End) -> Fate | None:
    """What became of the mutant; `None` if a test hung, so that only another trial can tell."""
    if end.status == BROKEN:
        raise RuntimeError(end.log)
    fates: dict[int | None, Fate | None] = {
        0: "survived",
        _HUNG: None,
        None: "timeout",
        -signal.SIGXCPU: "timeout",
    }
    return fates.get(end.status, "killed")


class _Asked:
    """A plugin of pytest: runs what was chosen, in that order, and remembers the first that fails."""

    def __init__(self, judges: list[str], known: frozenset[str]) -> None:
        self._order = {judge: n for n, judge in enumerate(judges)}
        self._known = known
        self.failed: str | None = None

    def run(self, file: str, hangs: int, folder: Path) -> bool:
        """Whether nothing failed."""
        options = (*OPTIONS, "-x", "-o", f"timeout={hangs}", f"--basetemp={folder}/t")
        try:
            code = pytest.main([*options, file], plugins=[self])
        except pytest.PytestUnraisableExceptionWarning:  # at the very end: what no test was made to fail for
            return False
        return code in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        asked = [item for item in items if item.nodeid in self._order or item.nodeid not in self._known]
        items[:] = sorted(asked, key=lambda item: self._order.get(item.nodeid, len(self._order)))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed = report.nodeid


class _Swap(MetaPathFinder, Loader):
    """Puts the mutated code in the place of one module."""

    def __init__(self, path: str, code: CodeType) -> None:
        self._name = "hubgate." + path.removesuffix(".py").replace("/", ".")
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
