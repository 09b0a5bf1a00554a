"""The memory of spent tokens: each id once, and full means refuse."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubgate.wire.seal import LEEWAY, LIFETIME, ReplayGuard, SealError
from tests.fakes.clock import START, Clock

EXP = int(START) + LIFETIME


def refused(guard: ReplayGuard, jti: str, exp: int = EXP) -> str | None:
    """The reason for which an id cannot be spent."""
    try:
        guard.use(jti, exp)
    except SealError as error:
        return error.reason
    return None


def test_an_id_is_spent_once() -> None:
    """The second use of an id is refused, that of another is not."""
    guard = ReplayGuard(10, Clock())
    assert [refused(guard, "a"), refused(guard, "a"), refused(guard, "b")] == [None, "replayed", None]


def test_full_memory_refuses() -> None:
    """When it can remember no more it refuses new ids, and still knows the old ones."""
    guard = ReplayGuard(3, Clock())
    for jti in "abc":
        guard.use(jti, EXP)
    assert refused(guard, "d") == "replay_memory_full"
    assert refused(guard, "a") == "replayed"


@pytest.mark.parametrize("passed", [0, LIFETIME, LIFETIME + LEEWAY])
def test_nothing_is_forgotten_while_it_could_be_accepted(passed: float) -> None:
    """Up to the last moment in which a token is accepted, its id is remembered."""
    clock = Clock()
    guard = ReplayGuard(1, clock)
    guard.use("a", EXP)
    clock.advance(passed)
    assert refused(guard, "a") == "replayed"
    assert refused(guard, "b") == "replay_memory_full"


def test_room_comes_back() -> None:
    """Ids whose tokens have ended make room for new ones."""
    clock = Clock()
    guard = ReplayGuard(3, clock)
    for jti in "abc":
        guard.use(jti, EXP)
    clock.advance(LIFETIME + LEEWAY + 1)
    assert refused(guard, "d", int(clock()) + LIFETIME) is None


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(0, 40)), max_size=40), st.integers(1, 4))
def test_no_live_id_is_ever_spent_twice(steps: list[tuple[str, float]], capacity: int) -> None:
    """Whatever the order and the pauses, an id is not spent again while its token is good."""
    clock = Clock()
    guard = ReplayGuard(capacity, clock)
    spent: dict[str, float] = {}
    for jti, pause in steps:
        clock.advance(pause)
        exp = int(clock()) + LIFETIME
        if refused(guard, jti, exp) is None:
            assert clock() > spent.get(jti, 0)
            spent[jti] = exp + LEEWAY
        assert sum(until >= clock() for until in spent.values()) <= capacity


def test_room_is_made_only_where_none_is_left() -> None:
    """Below its capacity the guard forgets nothing: an id is refused even after its token ended."""
    clock = Clock()
    guard = ReplayGuard(2, clock)
    guard.use("a", EXP)
    clock.advance(LIFETIME + LEEWAY + 1)
    assert refused(guard, "a") == "replayed"
