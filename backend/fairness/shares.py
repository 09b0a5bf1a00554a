"""Who pays when something has to make room: whoever causes it, or has more than their share.

A thing belongs to all who used it within `residency`, in equal parts; once nobody did, to nobody. To all and
not to whoever used it last: else somebody could make another's thing their own by one use, and then evict it
as such. A share is an equal part of the room for each who has something, and never less than what is asked
for.

Whoever has their share pays with their own, else with what is nobody's. Whoever has less takes what is
nobody's first, then, even if it was used a moment ago, from whoever is furthest above their share, and then
their own. Where there are more callers than places, somebody who has nothing gets, in the end, what was
there for longest, if that is `residency`: so each has their turn. Nothing else goes that another used within
`residency`, and nothing that is in use.

The operator's things are no part of the room, and the operator may have anything that is not in use.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Generic, Literal, TypeVar, get_args

from hubgate.backend.fairness.line import OPERATOR

Key = TypeVar("Key")
Why = Literal["own", "unused", "share", "turn", "operator"]
WHYS: Final[tuple[Why, ...]] = get_args(Why)
ROUNDING: Final = 1 + 1e-9  # of parts that are added up

_Rank = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Thing(Generic[Key]):
    """What takes up room. Times in seconds until now."""

    key: Key
    size: float
    users: Mapping[str, float]  # since each of them used it last; 0 for who uses it now
    idle: float  # since anybody did
    age: float  # since it came
    busy: int = 0  # how many use it now: it cannot go at once

    def payers(self, residency: float) -> Collection[str]:
        """Whose it is."""
        return [user for user, since in self.users.items() if since < residency]


@dataclass(frozen=True, slots=True)
class Victim(Generic[Key]):
    """What makes room, and why it is this."""

    thing: Thing[Key]
    why: Why


class Shares(Generic[Key]):
    """Of some room, as it is now, in the eyes of one who wants more of it."""

    def __init__(
        self, things: Collection[Thing[Key]], room: float, taker: str, size: float, residency: float
    ) -> None:
        """`taker` has `size` on top of what is among `things`."""
        self._things = things
        self._taker = taker
        self._residency = residency
        self._held: defaultdict[str, float] = defaultdict(float)
        for thing in things:
            payers = thing.payers(residency)
            for payer in payers:
                self._held[payer] += thing.size / len(payers)
        self._after = self._held[taker] + size
        equal = (room - self._held[OPERATOR]) / len(self._held.keys() - {OPERATOR} | {taker})
        self._share = max(equal, size)
        self._in_turn = equal < size  # more callers than places

    @property
    def is_entitled(self) -> bool:
        """Whether the taker would be within their share."""
        return self._taker == OPERATOR or self._after <= self._share * ROUNDING

    def victim(self) -> Victim[Key] | None:
        """What goes first, of what nobody uses at this moment."""
        return next(self.victims(), None)

    def victims(self) -> Iterator[Victim[Key]]:
        """All that may go, in order, each as if those before it were gone."""
        left = [thing for thing in self._things if not thing.busy]
        while first := self._first(left):
            # Of what is paid by its age alone, the next one does not depend on this one.
            alike = [first] if first.why in ("share", "turn") else self._all(left, first.why)
            for victim in alike:
                yield victim
                payers = victim.thing.payers(self._residency)
                for payer in payers:
                    self._held[payer] -= victim.thing.size / len(payers)
            gone = {id(victim.thing) for victim in alike}
            left = [thing for thing in left if id(thing) not in gone]

    def _all(self, things: Iterable[Thing[Key]], why: Why) -> list[Victim[Key]]:
        judged = ((self._judge(thing), thing) for thing in things)
        found = [(verdict[0], thing) for verdict, thing in judged if verdict and verdict[1] == why]
        return [Victim(thing, why) for _, thing in sorted(found, key=lambda one: one[0])]

    def in_use(self, but: Collection[Key] = ()) -> Victim[Key] | None:
        """What would have to go first, once those who use it are done; only for who is entitled."""
        busy = (thing for thing in self._things if thing.busy and thing.key not in but)
        return self._first(busy, among=("share", "turn"))

    def until_unused(self) -> float | None:
        """Seconds until something is nobody's, if nobody uses it again; `None`: all of it is in use."""
        waits = [
            self._residency - min(thing.users.values(), default=self._residency)
            for thing in self._things
            if not thing.busy
        ]
        return max(min(waits), 0) if waits else None

    def _first(self, things: Iterable[Thing[Key]], among: Collection[Why] = WHYS) -> Victim[Key] | None:
        best: tuple[_Rank, Victim[Key]] | None = None
        for thing in things:
            judged = self._judge(thing)
            if judged is not None and judged[1] in among and (best is None or judged[0] < best[0]):
                best = judged[0], Victim(thing, judged[1])
        return best[1] if best is not None else None

    def _judge(self, thing: Thing[Key]) -> tuple[_Rank, Why] | None:
        """How soon it goes, the lowest first, and why; `None`: it stays."""
        payers = thing.payers(self._residency)
        entitled, held = self.is_entitled, [self._held[payer] for payer in payers if payer != OPERATOR]
        own = set(payers) == {self._taker}
        if not payers:
            return (0 if entitled else 1, -thing.idle), "unused"
        if not entitled:
            return ((0, -thing.idle), "own") if own else None
        if len(held) == len(payers) and min(held) > self._share * ROUNDING:
            return (1, -min(held), thing.busy, -thing.idle), "share"
        if own:
            return (2, -thing.idle), "own"
        if self._taker == OPERATOR:
            return (3, -thing.idle), "operator"
        callers_alone = len(held) == len(payers)
        if self._in_turn and callers_alone and sum(held) >= self._after and thing.age >= self._residency:
            return (3, -thing.age, thing.busy), "turn"
        return None
