"""Whatever was measured, read or feared of one caller against the others is a case now, and stays one."""

import ast
import re
from functools import cache
from pathlib import Path

from tests.hostile import catalogue as hostile
from tests.hostile.requests import Sender
from tests.tenants.catalogue import BY_ID, INVENTED, PLAYS, ROWS
from tests.tenants.rows import FELL, HELD, READ, UNTRIED
from tests.tenants.rows import ROWS as MEASURED

ROOT = Path(__file__).parents[2]


@cache
def functions(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_row_is_a_case_that_is_there() -> None:
    """Its attacks and plays are in the catalogues, its tests in the files."""
    assert [len(rows) for rows in (FELL, READ, UNTRIED, HELD)] == [14, 6, 7, 5]
    for row in MEASURED:
        assert row.attacks or row.plays or row.tests, row.what
        assert set(row.attacks) <= hostile.BY_ID.keys(), row.what
        assert set(row.plays) <= BY_ID.keys(), row.what
        for test in row.tests:
            path, _, name = test.partition("::")
            assert name in functions(path), test


def test_every_row_of_the_page_is_played() -> None:
    """docs/isolation.md names them; those of whole engines are two tests."""
    page = (ROOT / "docs" / "isolation.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `([a-z-]+)` \|", page, re.MULTILINE))
    tests = {"engine-tenure", "engine-turns"}
    assert named == {attack.row for attack in hostile.CATALOGUE} | {play.id for play in ROWS} | tests


def test_enough_was_invented() -> None:
    """Each once; by several callers, against each kind of victim, and with everything that can happen."""
    assert len(PLAYS) == len(BY_ID)
    assert len(INVENTED) >= 25
    assert {play.victim for play in PLAYS} == {"base", "adapter", "two adapters", "cold", "stored"}
    assert len({play.event for play in PLAYS}) == 4
    assert sum(len({part.who for part in play.parts}) > 1 for play in PLAYS) >= 10


def test_every_request_can_be_written() -> None:
    """The first of each part, and its last."""
    for play in PLAYS:
        for part in play.parts:
            for number in {0, part.count - 1}:
                assert part.make(Sender("hf_demo_mallory", number))
