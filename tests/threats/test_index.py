"""SECURITY.md's table and the tests agree: what it promises is there, and what is there is in it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).parents[2]
ROWS = range(1, 47)  # of the threat model
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
_NAMED = re.compile(r"test_rows?_(\d+)_(?:and_(\d+)_)?")
_SKIPPED = re.compile(r"\bmark\.(skip|skipif|xfail)\b")
_COMING = re.compile(r"^Rows still to come: ([\d, ]+)\.$", re.MULTILINE)


def text() -> str:
    return (PROJECT / "SECURITY.md").read_text(encoding="utf-8")


def table() -> dict[int, set[tuple[str, str]]]:
    """Row → the tests that it names."""
    found: dict[int, set[tuple[str, str]]] = {}
    for line in text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not re.fullmatch(r"\d+(, \d+)*", cells[0]):
            continue
        for row in cells[0].split(", "):
            found.setdefault(int(row), set()).update(_TEST.findall(cells[-1]))
    return found


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


def test_every_row_is_shown_or_said_to_be_missing() -> None:
    """A row of the threat model is in the table with a test, or in the list of those still to come."""
    shown = {row for row, named in table().items() if named}
    match = _COMING.search(text())
    coming = {int(row) for row in match[1].split(", ")} if match else set()
    assert shown | coming == set(ROWS)
    assert shown & coming == set()


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
