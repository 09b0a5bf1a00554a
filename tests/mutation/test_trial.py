"""What counts as killed: a failure or an endless loop, and never a busy machine or a defect of the tool."""

import ast
import resource
from pathlib import Path

import pytest

from tests.mutation.forks import End, Forks
from tests.mutation.mutants import Mutant
from tests.mutation.record import Judge, choose
from tests.mutation.trial import fate


@pytest.mark.parametrize(
    ("status", "meaning"),
    [(0, "survived"), (10, "killed"), (-11, "killed"), (1, None), (None, "timeout"), (-24, "timeout")],
)
def test_what_an_end_means(tmp_path: Path, status: int | None, meaning: str | None) -> None:
    """A test that hung decides nothing yet; a crash and an endless loop (SIGXCPU) do."""
    assert fate(End(status, tmp_path)) == meaning


def ends(tmp_path: Path, *things: str) -> dict[str, str | None]:
    """What becomes of these words, each in a process of its own."""
    found: dict[str, str | None] = {}

    def work(thing: str, _: Path) -> int:
        resource.setrlimit(resource.RLIMIT_CPU, (1, 5))
        while thing == "loop":
            pass
        if thing == "raise":
            raise ValueError(thing)
        return len(thing)

    def tell(thing: str, end: End) -> None:
        found[thing] = fate(end)

    Forks(work, tell, scratch=tmp_path, jobs=2).run(things)
    return found


def test_each_has_an_end_of_its_own(tmp_path: Path) -> None:
    """A mutant that loops for ever ends by the time of the processor, and the others go on."""
    assert ends(tmp_path, "loop", "", "x" * 10) == {"loop": "timeout", "": "survived", "x" * 10: "killed"}
    assert not list(tmp_path.iterdir())


def test_a_defect_of_the_tool_kills_nothing(tmp_path: Path) -> None:
    """What the work itself raises is told, with its traceback, and is no kill."""
    with pytest.raises(RuntimeError, match="ValueError: raise"):
        ends(tmp_path, "raise")


def judge(name: str, seconds: float, called: str = "", prepared: str = "") -> Judge:
    places = ([("proxy/hub/cooldown.py", word) for word in words.split()] for words in (called, prepared))
    return Judge(name, seconds, *map(frozenset, places))


def test_who_is_asked_about_a_mutant() -> None:
    """Tests that enter its function, the module's own first, but no far ones that only prepare by it."""
    tree = ast.parse("pass")
    mutant = Mutant("proxy/hub/cooldown.py", "f", "pass", "", "", tree, tree, "body", 0, tree.body[0])
    files = (
        "tests/proxy/hub/test_client.py",
        "tests/proxy/hub/test_cooldown.py",
        "tests/proxy/auth/test_tokens.py",
    )
    asked = [
        judge("tests/proxy/hub/test_client.py::test_far", 0.1, called="f"),
        judge("tests/proxy/hub/test_client.py::test_elsewhere", 0.1, called="g"),
        judge("tests/proxy/hub/test_cooldown.py::test_slow", 2.0, called="f g"),
        judge("tests/proxy/hub/test_cooldown.py::test_quick", 1.0, prepared="f"),
        judge("tests/proxy/auth/test_tokens.py::test_start", 0.1, prepared="f"),
        judge("tests/wire/test_keys.py::test_other_group", 0.1, called="f"),
    ]
    assert [one.id.partition("::")[2] for one in choose(mutant, asked, files)] == [
        "test_quick",
        "test_slow",
        "test_far",
    ]
