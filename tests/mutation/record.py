"""Which tests could notice a change: those that enter the function it stands in. Recorded once per run."""

import json
import sys
import threading
from collections import defaultdict
from collections.abc import Container, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.mutation.forks import OPTIONS, End, Forks
from tests.mutation.mutants import Mutant

Place = tuple[str, str]  # module and function, as in a mutant; "" and the names of classes mean the import


class FailsAsItIsError(Exception):
    """A test fails without a mutant; the text is what pytest said."""


@dataclass(frozen=True)
class Judge:
    """A test, as it is when nothing is broken."""

    id: str
    seconds: float
    called: frozenset[Place]  # what it enters itself
    prepared: frozenset[Place]  # what its imports and fixtures enter

    @property
    def file(self) -> str:
        return self.id.partition("::")[0]


def record(root: Path, files: list[str], modules: list[str], scratch: Path, jobs: int) -> list[Judge]:
    """Run the tests of these files once, and see which functions of these modules each of them enters."""
    judges: list[Judge] = []

    def work(file: str, folder: Path) -> int:
        recorder = _Recorder({str(root / "src" / "hubgate" / path): path for path in modules})
        code = recorder.run(file, folder)
        (folder / "tests").write_text(json.dumps(recorder.found()))
        return code

    def tell(_: str, end: End) -> None:
        if end.status != 0:
            raise FailsAsItIsError(end.log)
        for name, seconds, *entered in json.loads((end.folder / "tests").read_text()):
            called, prepared = (frozenset((path, place) for path, place in places) for places in entered)
            judges.append(Judge(name, seconds, called, prepared))

    Forks(work, tell, scratch=scratch, jobs=jobs).run(files)
    return judges


def choose(mutant: Mutant, judges: Iterable[Judge], files: Container[str]) -> list[Judge]:
    """Those of these files that enter the mutant's place: the module's own first, then by their cost.

    Of the tests that enter it only to get ready, as everything that starts a proxy reads keys, those in
    the folder beside the module have to do.
    """
    place, module = (mutant.path, mutant.place), Path(mutant.path)
    chosen = [
        judge
        for judge in judges
        if judge.file in files
        and (
            place in judge.called
            or (place in judge.prepared and Path(judge.file).parent == "tests" / module.parent)
        )
    ]
    cost: dict[str, float] = defaultdict(float)
    for judge in chosen:
        cost[judge.file] += judge.seconds
    return sorted(
        chosen,
        key=lambda judge: (
            module.stem not in Path(judge.file).stem,
            cost[judge.file],
            judge.file,
            judge.seconds,
        ),
    )


class _Recorder:
    """A plugin of pytest. What the imports and wider fixtures of a file enter counts for all its tests."""

    def __init__(self, paths: dict[str, str]) -> None:
        self._paths = paths
        self._shared: set[Place] = set()
        self._prepared: dict[str, set[Place]] = defaultdict(set)
        self._called: dict[str, set[Place]] = defaultdict(set)
        self._into = self._shared
        self._seconds: dict[str, float] = defaultdict(float)

    def run(self, file: str, folder: Path) -> int:
        threading.settrace(self._trace)
        sys.settrace(self._trace)
        try:
            return int(pytest.main([*OPTIONS, f"--basetemp={folder}/t", file], plugins=[self]))
        finally:
            sys.settrace(None)

    def found(self) -> list[tuple[str, float, list[Place], list[Place]]]:
        return [
            (name, seconds, sorted(self._called[name]), sorted(self._prepared[name] | self._shared))
            for name, seconds in self._seconds.items()
        ]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self._into = self._prepared[item.nodeid]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> None:
        self._into = self._called[item.nodeid]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_teardown(self) -> None:
        self._into = self._shared

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[report.nodeid] += report.duration

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, Any, Any]:
        before = self._into
        if fixturedef.scope != "function":
            self._into = self._shared
        try:
            return (yield)
        finally:
            self._into = before

    def _trace(self, frame: FrameType, _event: str, _arg: object) -> None:
        code = frame.f_code
        if path := self._paths.get(code.co_filename):
            # What stands in <locals>, a <lambda> or a <listcomp> belongs to the function around it.
            names = [name for name in code.co_qualname.split(".") if not name.startswith("<")]
            self._into.add((path, ".".join(names)))
