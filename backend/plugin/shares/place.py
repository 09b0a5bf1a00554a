"""One request at the gate, and its caller: what is noted of them, by `FairOrder` alone."""

from collections import deque
from collections.abc import Callable
from typing import Final

WEIGHT: Final = 100  # of a caller of whom nothing else is said, as of a cgroup (cpu.weight)


def _nothing() -> None:
    """What is done when a request is let in of which nobody has to be told."""


class Place:
    """One request: what it takes, and whether it is in. Costs are in tokens of a prompt."""

    __slots__ = (
        "adapter", "before", "caller", "charged", "cost", "era", "is_in", "is_reserved", "on_let_in", "seats",
        "seen", "since", "sub", "turn", "used", "weight",
    )  # fmt: skip

    def __init__(
        self,
        sub: str,
        *,
        weight: int = WEIGHT,
        adapter: str | None = None,
        seats: int = 1,
        cost: float = 1.0,
        spent: float = 0.0,
    ) -> None:
        """`cost` is what it will take, as far as is known before it runs, of which `spent` is certain."""
        self.sub = sub
        self.weight = weight
        self.adapter = adapter
        self.seats = seats
        self.cost = cost
        self.is_in = False
        self.is_reserved = False  # beyond the seats
        self.before = 0  # how many seats its caller had when it was let in
        self.turn = 0  # in the order of arrival
        self.since = 0.0  # when it began to wait, by whoever knows the time
        self.on_let_in: Callable[[], None] = _nothing
        self.caller: Caller | None = None
        self.used = spent
        self.charged = 0.0
        self.era = 0  # in which it was charged
        self.seen = 0  # how many had been let in when it came


class Caller:
    """What one caller has in, and what waits."""

    __slots__ = (
        "blocked", "era", "load", "places", "seats", "sub", "tag", "turn", "waiting", "waits", "weight",
    )  # fmt: skip

    def __init__(self, sub: str, weight: int) -> None:
        self.sub = sub
        self.weight = weight
        self.seats = 0
        self.places = 0  # in or waiting
        self.load = 0.0  # seats by weight
        self.tag = 0.0
        self.turn = 0  # of the first that waits
        self.era = 0
        self.blocked = False  # whether all that waits does so for an adapter
        self.waits = 0
        self.waiting: dict[str | None, deque[Place]] = {}  # by adapter, so that one does not hold up another

    def heads(self) -> list[Place]:
        """The first for each adapter, in the order in which they came."""
        heads = [queue[0] for queue in self.waiting.values()]
        if len(heads) > 1:
            heads.sort(key=_turn)
        return heads


def _turn(place: Place) -> int:
    return place.turn
