"""docs/threats.md, SECURITY.md's table and the tests agree: what they promise is there, and nothing else."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).parents[2]
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
_NAMED = re.compile(r"test_rows?_(\d+)_(?:and_(\d+)_)?")
_SKIPPED = re.compile(r"\bmark\.(skip|skipif|xfail)\b")
_PLANNED = "planned, not held yet"


def rows(name: str) -> list[tuple[int, str]]:
    """The rows of a document's tables: the number, and what stands in the last cell."""
    cells = [line.strip("|").split("|") for line in (PROJECT / name).read_text(encoding="utf-8").splitlines()]
    return [(int(row[0]), row[-1].strip()) for row in cells if row[0].strip().isdecimal()]


def table() -> dict[int, set[tuple[str, str]]]:
    """Row → the tests that it names."""
    return {row: set(_TEST.findall(shown)) for row, shown in rows("SECURITY.md")}


def collected() -> Iterator[tuple[str, str]]:
    """Every test that pytest collects: functions `test_…` of files `test_….py`, none of them skipped."""
    for path in sorted((PROJECT / "tests").rglob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            marks = [ast.unparse(mark) for mark in node.decorator_list]
            if node.name.startswith("test_") and not any(map(_SKIPPED.search, marks)):
                yield path.relative_to(PROJECT).as_posix(), node.name


def test_every_test_that_is_named_exists() -> None:
    """Nobody who follows the table finds nothing, or a test that does not run."""
    named = {test for row in table().values() for test in row}
    assert len(named) > 50
    assert named - set(collected()) == set()


def test_every_threat_has_its_row() -> None:
    """Both documents have the same rows, each once and in order, so that a number means one thing."""
    threats = [row for row, _ in rows("docs/threats.md")]
    assert threats == [row for row, _ in rows("SECURITY.md")] == list(range(1, len(threats) + 1))
    assert len(threats) >= 60


def test_every_row_is_shown_or_said_to_be_planned() -> None:
    """A row names its tests, or says in plain words that it is not held yet; never both."""
    assert {row for row, named in table().items() if not named} == {
        row for row, shown in rows("SECURITY.md") if shown == _PLANNED
    }


def test_every_test_of_a_row_is_in_the_table() -> None:
    """A test that is named after a row stands in that row."""
    shown, found = table(), 0
    for path, name in collected():
        match = _NAMED.match(name)
        for row in match.groups() if match else ():
            if row is not None:
                found += 1
                assert (path, name) in shown[int(row)], f"{path}::{name} is not in row {row}"
    assert found > 30
