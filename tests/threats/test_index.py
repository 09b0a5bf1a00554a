"""docs/threats.md, SECURITY.md's table and the tests agree: what they promise is there, and nothing else."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

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


def attacks() -> list[list[str]]:
    """The rows of docs/isolation.md: id, attack, what it did without a bound, the bound, what is left."""
    lines = (PROJECT / "docs/isolation.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if row[0].startswith("`")]


def test_every_attack_has_a_figure_or_says_that_it_has_none() -> None:
    """Each row has an id of its own, names its bound, and what is left in milliseconds or seconds."""
    found = attacks()
    ids = [row[0] for row in found]
    assert len(ids) == len(set(ids)) > 20
    for row in found:
        assert len(row) == 5, row
        assert re.fullmatch(r"`[a-z]+(-[a-z]+)*`", row[0]), row
        assert all(row), row
        assert re.search(r"\d m?s\b|^not measured yet$", row[4]), row


def test_every_bound_is_a_setting() -> None:
    """What docs/isolation.md names as a bound can be set in one of the configuration files."""
    documented = {
        name
        for file in ("proxy.yaml", "backend.yaml")
        for name in _settings(yaml.safe_load((PROJECT / "config" / file).read_text(encoding="utf-8")))
    }
    named = {name for row in attacks() for name in re.findall(r"`(\w+\.\w+)`", row[3])}
    assert named
    assert named - documented == set()


def _settings(sections: dict[str, Any]) -> Iterator[str]:
    for section, values in sections.items():
        if isinstance(values, dict):
            yield from (f"{section}.{name}" for name in values)
