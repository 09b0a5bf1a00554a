"""What stands for many tests runs all of its cases, and tells each one that fails."""

import inspect
from pathlib import Path

import pytest

from tests.cases import each


def test_every_case_that_fails_is_named() -> None:
    """The first failure ends nothing, and what failed can be read without a traceback."""
    tried = []

    @each(("number", "word"), [(n, "x" * n) for n in range(40)])
    def check(tmp_path: Path, number: int, word: str) -> None:
        tried.append((tmp_path, word))
        assert number % 2

    assert list(inspect.signature(check).parameters) == ["tmp_path"]
    with pytest.raises(BaseExceptionGroup) as caught:
        check(tmp_path=Path("x"))
    assert tried == [(Path("x"), "x" * n) for n in range(40)]
    assert len(caught.value.exceptions) == 20
    for number in range(0, 40, 2):
        assert f"\n  number={number}, word='{'x' * number}'\n" in str(caught.value)


async def test_cases_of_a_coroutine_are_awaited() -> None:
    """Whatever a case raises, `pytest.fail` included, is its failure; the decorator can stand twice."""

    @each("left", [1, 2])
    @each("right", [1, 2])
    async def check(left: int, right: int) -> None:
        if left != right:
            pytest.fail("they differ")

    with pytest.raises(BaseExceptionGroup, match="2 of 2 cases failed") as caught:
        await check()
    assert "right=2" in str(caught.value.exceptions[0])
    assert "right=1" in str(caught.value.exceptions[1])


def test_no_case_is_no_success() -> None:
    """Else a list that became empty by mistake would pass; a name that the test does not take is an error."""

    @each("word", [])
    def check(word: str) -> None:
        assert word

    with pytest.raises(AssertionError, match="no case"):
        check()
    with pytest.raises(AssertionError, match="takes no"):
        each("other", [1])(check)


def test_the_time_of_a_test_is_that_of_all_its_cases() -> None:
    """pytest-timeout ends a test once: no other case is begun after that, since nothing would end it."""
    tried = []

    @each("number", [1, 2, 3])
    def check(number: int) -> None:
        tried.append(number)
        if number == 2:
            pytest.fail("Timeout (>120.0s) from pytest-timeout.")

    with pytest.raises(BaseExceptionGroup, match="number=2"):
        check()
    assert tried == [1, 2]


def test_a_case_that_skips_has_failed() -> None:
    """A check that is left out is not one that passed."""

    @each("number", [1, 2])
    def check(number: int) -> None:
        if number == 2:
            pytest.skip("later")

    with pytest.raises(BaseExceptionGroup, match="number=2"):
        check()
