"""The breaker: when it opens, how long it pauses, and what lets it close."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubgate.proxy.hub.breaker import (
    FIRST_PAUSE,
    IDLE,
    JITTER,
    LONGEST_PAUSE,
    PROBED,
    THRESHOLD,
    Attempt,
    Breaker,
)
from tests.fakes.clock import Clock


class World:
    """A breaker on a clock of the test's own; `turns` are its transitions."""

    def __init__(self, chance: float = 0.0) -> None:
        self.clock = Clock(0)
        self.turns: list[str] = []
        self.breaker = Breaker(self.clock, self._turned, lambda: chance)

    def _turned(self, opened: bool, why: str) -> None:
        self.turns.append(f"{'open' if opened else 'closed'}: {why}")

    def begin(self) -> Attempt:
        leave = self.breaker.begin()
        assert isinstance(leave, Attempt)
        return leave

    def ask(self, *, answered: bool | None) -> None:
        """One question from begin to end."""
        self.breaker.end(self.begin(), answered=answered)

    def wait(self) -> float:
        """The seconds that there is no leave for; takes none."""
        wait = self.breaker.begin()
        assert isinstance(wait, float)
        return wait

    def opened(self) -> "World":
        for _ in range(THRESHOLD):
            self.ask(answered=False)
        return self


def test_it_opens_after_failures_in_a_row() -> None:
    """Fewer failures than the threshold change nothing; the last of them opens it at once."""
    world = World()
    for _ in range(THRESHOLD - 1):
        world.ask(answered=False)
    assert not world.breaker.is_open()
    world.ask(answered=False)
    assert world.breaker.is_open()
    assert world.wait() == FIRST_PAUSE
    assert world.turns == ["open: failed"]


def test_any_answer_begins_the_count_anew() -> None:
    """Only failures in a row count."""
    world = World()
    for _ in range(5):
        for _ in range(THRESHOLD - 1):
            world.ask(answered=False)
        world.ask(answered=True)
    assert not world.breaker.is_open()
    assert world.turns == []


def test_a_question_that_was_given_up_shows_nothing() -> None:
    """It neither counts as a failure nor ends a row of them."""
    world = World()
    for _ in range(THRESHOLD * 2):
        world.ask(answered=None)
    for _ in range(THRESHOLD - 1):
        world.ask(answered=False)
    world.ask(answered=None)
    assert not world.breaker.is_open()
    world.ask(answered=False)
    assert world.breaker.is_open()


def test_one_probe_at_a_time() -> None:
    """After the pause one question goes out; the others are told to come back soon."""
    world = World().opened()
    world.clock.advance(FIRST_PAUSE)
    probe = world.begin()
    assert world.wait() == world.wait() == PROBED
    world.breaker.end(probe, answered=True)
    world.begin()
    world.begin()
    assert world.turns == ["open: failed", "closed: answered"]


def test_pauses_grow_up_to_a_bound() -> None:
    """Each probe that fails doubles the pause, and nothing is told again."""
    world, pauses = World().opened(), []
    for _ in range(12):
        pauses.append(world.wait())
        world.clock.advance(pauses[-1])
        world.ask(answered=False)
    assert pauses[:5] == [1, 2, 4, 8, 16]
    assert set(pauses[5:]) == {LONGEST_PAUSE / (1 + JITTER)}
    assert world.turns == ["open: failed"]


@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
def test_jitter_keeps_within_the_bound(chance: float) -> None:
    """Proxies do not probe together, and none pauses for longer than the longest."""
    world = World(chance).opened()
    assert world.wait() == FIRST_PAUSE * (1 + JITTER * chance)
    for _ in range(10):
        world.clock.advance(world.wait())
        world.ask(answered=False)
    assert LONGEST_PAUSE / (1 + JITTER) <= world.wait() <= LONGEST_PAUSE


def test_after_it_closed_all_begins_anew() -> None:
    """The next outage needs as many failures as the first, and its first pause is short again."""
    world = World().opened()
    for _ in range(4):
        world.clock.advance(world.wait())
        world.ask(answered=False)
    world.clock.advance(world.wait())
    world.ask(answered=True)
    world.opened()
    assert world.wait() == FIRST_PAUSE


def test_a_probe_that_was_given_up_makes_room_for_the_next() -> None:
    """A caller who left does not keep the Hub away for ever."""
    world = World().opened()
    world.clock.advance(FIRST_PAUSE)
    world.ask(answered=None)
    world.ask(answered=True)
    assert not world.breaker.is_open()


def test_late_failures_say_nothing_new() -> None:
    """Questions that began before it opened do not lengthen the pause."""
    world = World()
    late = [world.begin() for _ in range(10)]
    world.opened()
    for one in late:
        world.breaker.end(one, answered=False)
    assert world.wait() == FIRST_PAUSE


def test_a_late_answer_closes_it() -> None:
    """The Hub answered just now, whoever asked and when."""
    world = World()
    late = world.begin()
    world.opened()
    world.breaker.end(late, answered=True)
    assert not world.breaker.is_open()


def test_a_stale_probe_is_no_probe() -> None:
    """A probe that was overtaken by another answer neither frees the next probe's place nor pauses."""
    world = World()
    late = world.begin()
    world.opened()
    world.clock.advance(FIRST_PAUSE)
    stale = world.begin()
    world.breaker.end(late, answered=True)
    world.opened()
    world.clock.advance(FIRST_PAUSE)
    world.begin()
    world.breaker.end(stale, answered=False)
    assert world.wait() == PROBED


def test_what_nobody_asked_for_long_is_not_known_to_be_away() -> None:
    """Long after a pause in which nobody asked, everybody may ask at once again."""
    world = World().opened()
    world.clock.advance(FIRST_PAUSE + IDLE)
    assert not world.breaker.is_open()
    world.begin()
    world.begin()
    assert world.turns == ["open: failed", "closed: idle"]


def test_a_probe_in_flight_is_not_idle() -> None:
    """While a probe waits for its answer, however long, the breaker is open."""
    world = World().opened()
    world.clock.advance(FIRST_PAUSE)
    world.begin()
    world.clock.advance(IDLE * 10)
    assert world.breaker.is_open()
    assert world.wait() == PROBED


@given(st.lists(st.tuples(st.sampled_from([True, False, None, "begin"]), st.floats(0, 40)), max_size=80))
def test_it_is_never_shut_for_longer_than_the_longest_pause(plan: list[tuple[object, float]]) -> None:
    """Whatever happened, after the longest pause a question goes out unless one is in flight already."""
    world, under_way = World(chance=0.7), list[Attempt]()
    for what, seconds in plan:
        world.clock.advance(seconds)
        if what == "begin" or not under_way:
            leave = world.breaker.begin()
            if isinstance(leave, Attempt):
                under_way.append(leave)
            else:
                assert 0 < leave <= LONGEST_PAUSE
        else:
            assert what is None or isinstance(what, bool)
            world.breaker.end(under_way.pop(0), answered=what)
    for one in under_way:
        world.breaker.end(one, answered=None)
    world.clock.advance(LONGEST_PAUSE)
    world.begin()
    assert [turn.partition(":")[0] for turn in world.turns] == (["open", "closed"] * 80)[: len(world.turns)]


def test_an_answer_begins_the_count_anew() -> None:
    """After an answer it takes exactly as many failures in a row as from the start."""
    told: list[tuple[bool, str]] = []
    breaker = Breaker(Clock(), lambda opened, why: told.append((opened, why)), lambda: 0.0)
    for answered in (False, True, *[False] * 4):
        one = breaker.begin()
        assert isinstance(one, Attempt)
        breaker.end(one, answered=answered)
    assert told == []
    one = breaker.begin()
    assert isinstance(one, Attempt)
    breaker.end(one, answered=False)
    assert told == [(True, "failed")]
