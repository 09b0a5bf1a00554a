"""The line before the download workers: equal shares, nothing idle, nobody starved."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable

import pytest

from hubgate.backend.fairness.line import OPERATOR, Line, Turn
from tests.fakes.clock import Clock

PLAYS = 1000
STEPS = 25


class Place:
    """A line, and those who wait in it by name; who is called back leaves, and comes again."""

    def __init__(self, width: int) -> None:
        self.line = Line(width)
        self.turns: list[Turn] = []

    def come(self, *callers: str) -> Turn:
        """One wish, of one caller or of several who want the same."""
        who = set(callers)
        turn = self.line.turn(lambda: who)
        self.turns.append(turn)
        self.line.enter(turn)
        return turn

    def go(self, turn: Turn) -> None:
        """It is done, or given up."""
        self.turns.remove(turn)
        self.line.leave(turn)

    def heed(self) -> None:
        """Who is called back leaves and comes again."""
        while called := [turn for turn in self.turns if turn.called_back]:
            self.go(called[0])
            self.come(*called[0].callers())

    @property
    def inside(self) -> list[Turn]:
        return [turn for turn in self.turns if turn.came.is_set()]

    @property
    def waiting(self) -> list[Turn]:
        return [turn for turn in self.turns if not turn.came.is_set()]

    def held(self) -> Counter[str]:
        return Counter(turn.payer for turn in self.inside)


def leave(turn: Turn, caller: str) -> None:
    """A caller waits for it no longer."""
    callers = turn.callers()
    assert isinstance(callers, set)
    callers.discard(caller)


def test_one_alone_has_all_places() -> None:
    """Nothing stands idle for somebody who may never come."""
    place = Place(4)
    turns = [place.come("a") for _ in range(6)]
    assert [turn.came.is_set() for turn in turns] == [True] * 4 + [False] * 2
    assert not any(turn.called_back for turn in turns)


def test_who_comes_gets_a_place_back() -> None:
    """The youngest of whoever has the most; down to equal shares, and no further."""
    place = Place(4)
    first = [place.come("a") for _ in range(6)]
    place.come("b")
    assert [turn.called_back for turn in first] == [False, False, False, True, False, False]
    place.heed()
    assert place.held() == {"a": 3, "b": 1}
    for _ in range(3):
        place.come("b")
    place.heed()
    assert place.held() == {"a": 2, "b": 2}
    place.come("c")
    place.heed()
    assert place.held()["c"] == 1


def test_callers_are_let_in_in_turn() -> None:
    """However many wishes one of them has, and whoever came first."""
    place = Place(1)
    order = [place.come("a") for _ in range(4)]
    order += [place.come("b"), place.come("c")]
    seen = []
    while place.turns:
        (inside,) = place.inside
        seen.append(inside.payer)
        place.go(inside)
    assert "".join(seen) == "abcaaa"


def test_what_nobody_waits_for_gives_way_first_and_comes_last() -> None:
    """It goes on while nobody else wants its place."""
    place = Place(2)
    left, kept = place.come("a"), place.come("b")
    leave(left, "a")
    place.line.settle()
    assert [turn for turn in place.turns if turn.called_back] == []
    place.come("b")
    assert [turn for turn in place.turns if turn.called_back] == [left]
    place.heed()
    assert place.held() == {"b": 2}
    place.go(kept)
    assert place.held()[""] == 1


def test_a_wish_of_several_is_let_in_for_whoever_has_least() -> None:
    """And is charged to another of them when that one leaves."""
    place = Place(2)
    place.come("a")
    place.come("a")
    place.come("a", "b")
    place.heed()
    assert place.held() == {"a": 1, "b": 1}
    shared = next(turn for turn in place.inside if turn.payer == "b")
    leave(shared, "b")
    place.come("b")
    place.heed()
    assert place.held() == {"a": 1, "b": 1}


def test_the_operator_has_a_place_beside_all_others() -> None:
    """It is never called back, and callers leave it free."""
    place = Place(2)
    for _ in range(4):
        place.come("a")
    own = place.come(OPERATOR)
    assert own.came.is_set()
    assert len(place.inside) == 3
    place.come("b")
    place.heed()
    assert not own.called_back
    assert place.held() == {"a": 1, "b": 1, OPERATOR: 1}


def test_everybody_who_waits_is_told_their_place() -> None:
    """As it looks now: the next turn of each caller before the second one of any."""
    place = Place(1)
    place.come("x")
    first, second, other = place.come("a"), place.come("a"), place.come("b")
    assert [place.line.position(turn) for turn in (first, second, other)] == [1, 3, 2]
    assert place.line.position(place.inside[0]) is None
    place.go(place.inside[0])
    assert [place.line.position(turn) for turn in (second, other)] == [2, 1]


async def test_who_is_cancelled_gives_the_place_up() -> None:
    """Waiting, or in the moment in which it came."""
    line = Line(1)

    async def stay(turn: Turn, end: asyncio.Event) -> None:
        async with line.place(turn):
            await end.wait()

    ends = [asyncio.Event() for _ in range(3)]
    turns = [line.turn(lambda name=name: name) for name in "abc"]  # type: ignore[misc]
    tasks = [asyncio.create_task(stay(turn, end)) for turn, end in zip(turns, ends, strict=True)]
    await asyncio.sleep(0)
    ends[0].set()
    tasks[1].cancel()
    await asyncio.gather(tasks[0], tasks[1], return_exceptions=True)
    assert turns[2].came.is_set()
    ends[2].set()
    await tasks[2]
    await asyncio.wait_for(stay(line.turn(lambda: "d"), ends[0]), 1)


async def test_a_place_is_kept_for_a_while() -> None:
    """Who comes and goes has nobody's work begun anew; who stays gets the place when that is over."""
    clock = Clock()
    line = Line(2, 0.01, clock)
    first, second = line.turn(lambda: "a"), line.turn(lambda: "a")
    called = asyncio.Event()
    second.on_call = called.set
    line.enter(first)
    line.enter(second)
    waiting = line.turn(lambda: "b")
    line.enter(waiting)
    line.leave(waiting)
    line.enter(waiting)
    assert not second.called_back
    clock.advance(0.01)
    await asyncio.wait_for(called.wait(), 5)
    assert [turn.called_back for turn in (first, second)] == [False, True]


def fill(width: int, wishes: Counter[str]) -> Counter[str]:
    """The reference: places are given out one at a time, to whoever has least and still wants one."""
    given: Counter[str] = Counter()
    for _ in range(min(width, wishes.total())):
        given[min((one for one in wishes if given[one] < wishes[one]), key=lambda one: given[one])] += 1
    return given


def play(dice: random.Random, *, check: Callable[[Place, int], None]) -> None:
    """Callers come and go at random, one of them far more often than all others."""
    width, names = dice.randint(1, 6), [f"caller-{number}" for number in range(dice.randint(2, 20))]
    place = Place(width)
    for _ in range(STEPS):
        what = dice.choices(("come", "done", "give up", "leave"), (5, 3, 1, 1))[0]
        if what == "come":
            place.come(names[0] if dice.random() < 0.5 else dice.choice(names))
        elif what == "leave" and place.turns:
            turn = dice.choice(place.turns)
            leave(turn, next(iter(turn.callers()), ""))
            place.line.settle()
        elif some := place.inside if what == "done" else place.waiting:
            place.go(dice.choice(some))
        place.heed()
        check(place, width)


def _is_fair(place: Place, width: int) -> None:
    """What must hold whenever nothing moves."""
    held, wanting = place.held(), [turn for turn in place.waiting if turn.callers()]
    # Work-conserving: nothing is idle while somebody waits.
    assert not place.waiting or len(place.inside) == width
    # Nobody's are inside only if nobody waits.
    assert not wanting or not held[""]
    # Nobody is above their share while another waits.
    for turn in wanting:
        (caller,) = turn.callers()
        assert max(held.values()) <= held[caller] + 1
    wishes = Counter(caller for turn in place.turns for caller in turn.callers())
    ideal = fill(width, wishes)
    assert all(abs(held[caller] - ideal[caller]) <= 1 for caller in wishes)
    assert sum(held[caller] for caller in wishes) == ideal.total()
    # Places in the line are 1, 2, 3, …
    assert sorted(place.line.position(turn) or 0 for turn in place.waiting) == list(
        range(1, len(place.waiting) + 1)
    )


def test_shares_are_fair_in_a_thousand_plays() -> None:
    """Against a reference: two to twenty callers, and one who wants everything."""
    for seed in range(PLAYS):
        play(random.Random(seed), check=_is_fair)  # noqa: S311


@pytest.mark.parametrize("greedy", [1, 10])
def test_nobody_starves_in_a_thousand_plays(greedy: int) -> None:
    """Before a caller who holds nothing, each other one is let in once at most."""
    for seed in range(PLAYS // 2):
        dice = random.Random(seed)  # noqa: S311
        names = [f"caller-{number}" for number in range(dice.randint(2, 20))]
        place, width = Place(1), dice.randint(1, 6)
        place = Place(width)
        for name in names:
            for _ in range(greedy * (name == names[0]) + dice.randint(0, 2)):
                place.come(name)
        place.heed()
        place.come("late")
        passed: Counter[str] = Counter()
        inside = set(place.inside)
        while not place.held()["late"]:
            place.go(dice.choice(place.inside))
            place.come(names[0])  # who never has enough
            place.heed()
            passed.update(turn.payer for turn in place.inside if turn not in inside)
            inside = set(place.inside)
        assert all(times <= 1 for name, times in passed.items() if name != "late"), passed
