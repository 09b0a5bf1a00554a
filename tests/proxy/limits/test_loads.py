"""A caller's loads count until they end, whoever waits; and one that failed is not tried again at once."""

import random

import pytest

from hubgate.proxy.errors import Denied
from hubgate.proxy.limits.loads import AGAIN, AT_ONCE, LEFT, MAX_FAILED, Loads
from tests.fakes.clock import Clock

BUSY = Denied("no_upstream", "busy", retry_after=7)


class World:
    """Loads, on a clock, and what is warm."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.warm: set[str] = set()
        self.loads = Loads(self.clock, self.warm.__contains__)

    def fill(self) -> None:
        for number in range(AT_ONCE):
            assert self.loads.begin("a", f"m{number}") is None

    def begins(self, model: str, sub: str = "a") -> bool:
        denied = self.loads.begin(sub, model)
        assert denied is None or denied.code == "rate_limit_exceeded"
        return denied is None


def test_models_of_one_caller_at_once() -> None:
    """Requests that wait for the same one are one; others have their own; what ended makes room."""
    world = World()
    world.fill()
    assert world.begins("m0")
    assert not world.begins("more")
    assert world.begins("more", "b")
    world.loads.end("a", "m0", ended=True)
    assert not world.begins("more")  # the other one still waits for it
    world.loads.end("a", "m0", ended=True)
    assert world.begins("more")


def test_what_was_left_counts_for_a_while() -> None:
    """Until it is warm, or so long ago that the backend will have given it up; it can be joined."""
    world = World()
    world.fill()
    for number in range(AT_ONCE):
        world.loads.end("a", f"m{number}", ended=False)
        world.clock.advance(1)
    assert not world.begins("more")
    assert world.begins("m3")
    world.warm.add("m5")
    assert world.begins("more")
    assert not world.begins("another")
    world.clock.advance(LEFT - AT_ONCE)
    assert world.begins("another")
    world.clock.advance(LEFT)
    assert world.begins("last")
    assert len(world.loads) == 4  # m3, more, another, last


@pytest.mark.parametrize(
    ("denied", "again"),
    [
        (BUSY, True),
        (Denied("store_full", "full", retry_after=30), True),
        (Denied("adapter_rejected", "pickle only"), False),
        (Denied("no_upstream", "for good"), False),
        (Denied("upstream_error", "broken", retry_after=5), False),
    ],
)
def test_what_failed_for_a_while_is_told_again(denied: Denied, *, again: bool) -> None:
    """Of one caller and model, for a moment."""
    world = World()
    assert world.begins("m")
    world.loads.end("a", "m", ended=True, failed=denied)
    assert world.loads.failed("a", "m") == (denied if again else None)
    assert world.loads.failed("b", "m") is None
    assert world.loads.failed("a", "other") is None
    world.clock.advance(AGAIN)
    assert world.loads.failed("a", "m") is None


def test_nothing_stays() -> None:
    """Of callers who left loads, or whose loads failed, no more is remembered than counts."""
    world = World()
    for number in range(2 * MAX_FAILED):
        sub = f"caller-{number}"
        assert world.begins("m", sub)
        world.loads.end(sub, "m", ended=number % 2 == 0, failed=BUSY)
    assert len(world.loads) == MAX_FAILED
    assert len(world.loads._failed) == MAX_FAILED
    world.clock.advance(LEFT)
    assert world.begins("m")
    assert len(world.loads) == 1
    assert not world.loads._left


def test_nobody_is_above_their_share() -> None:
    """In a thousand plays nobody has more under way than they may, and nobody is refused who has less."""
    for seed in range(1_000):
        chance = random.Random(seed)  # noqa: S311 - a play, to be played again
        world = World()
        waits: list[tuple[str, str]] = []
        left: dict[tuple[str, str], float] = {}
        for _ in range(120):
            world.clock.advance(chance.choice((0, 0, 1, 20)))
            left = {one: until for one, until in left.items() if until > world.clock()}
            if chance.random() < 0.7:
                one = (f"caller-{chance.randint(0, 3)}", f"m{chance.randint(0, 40)}")
                mine = {model for sub, model in (*waits, *left) if sub == one[0]}
                assert (world.loads.begin(*one) is None) == (one[1] in mine or len(mine) < AT_ONCE)
                if one[1] in mine or len(mine) < AT_ONCE:
                    waits.append(one)
                    left.pop(one, None)
            elif waits:
                one = waits.pop(chance.randrange(len(waits)))
                ended = chance.random() < 0.5
                world.loads.end(*one, ended=ended)
                if not ended and one not in waits:
                    left[one] = world.clock() + LEFT
