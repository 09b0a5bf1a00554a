"""Which backend takes a request: the choice among all that can, as a pure decision.

The rule, for a base or an adapter on its base:

1. Whoever **holds** the model comes first, then whoever runs its base, then the rest. Only backends count
   that answer their hello and do not drain. Nobody starts a second engine of a base that runs somewhere.
2. Among these the order is that of **rendezvous hashing** (Thaler and Ravishankar, 1998), by weight: an
   adapter has the same order at every proxy, and when a backend comes or goes, only its own models move. A
   base alone is held alike by all that run it: they take turns.
3. The **load is bounded** (Mirrokni, Thorup and Zadimoghaddam, 2018): the first in the order that would have
   at most `BOUND` times its fair share of what is in flight on this base. Load is what this proxy has in
   flight there, and what waits at the engine's gate as the last hello tells it. Where all that hold an
   adapter are over it, the least loaded of them takes the request.
4. An adapter to which that happens again and again, while its engine has no free seat, is **hot**: a second
   backend loads it.
5. A **cold** adapter goes to the first in the order with a free place for it and within its bound, so that
   places fill up everywhere before one has to be made.
6. An engine that **fails** `FAILURES` times in a row is left alone for a pause; then one request tries it.

The order of a model is kept until something changes; a choice looks at the first of it, mostly.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import Final

from hubgate.proxy.auth.authorization import Access
from hubgate.wire.bounded_map import BoundedMap
from hubgate.wire.control_api import EngineInfo

BOUND: Final = 1.25  # times the fair share
FAILURES: Final = 3  # in a row
FIRST_PAUSE: Final = 1.0  # seconds; each try that fails doubles it
LONGEST_PAUSE: Final = 30.0  # seconds
HOT: Final = 16  # choices over the bound, more than those within it
SEATS: Final = 16  # sequences that an engine runs at once, at least, if it has not told
ORDERS: Final = 10_000  # that are kept
GOLDEN: Final = 0.6180339887498949  # its multiples modulo 1 fill the circle evenly, however many are taken

_RUNS: Final = frozenset({"absent", "downloading", "starting", "ready", "asleep"})


class Member:
    """One backend as far as the choice knows it."""

    def __init__(self, name: str, weight: int = 100) -> None:
        """`weight` is that of its share of the load, beside the others'."""
        self.name = name
        self.weight = weight
        self.open = False  # it answers, and takes new requests
        self.engines: dict[str, EngineInfo] = {}  # by id


class Slot:
    """One backend's part of the load of one base."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self.in_flight = 0  # requests of this proxy
        self.waiting = 0  # requests, of whatever proxy, at the engine's gate
        self.seats = 0  # sequences that the engine runs at once; 0: it has not told
        self.counted = False  # whether it is one of those among whom the load is spread
        self.loading: dict[str, int] = {}  # adapters that are being loaded for this proxy: requests
        self.failures = 0  # in a row
        self.pauses = 0  # in a row
        self.shut_until = 0.0  # on the clock; 0: it is not shut
        self.tried = False  # one request finds out whether it is back


class Group:
    """All that run one base."""

    def __init__(self) -> None:
        self.slots: dict[str, Slot] = {}  # by the backend's name
        self.load = 0  # of those that count
        self.weight = 0
        self.generation = -1


class Order:
    """In which order backends are asked for one model, as long as nothing changes."""

    def __init__(self, model: str, base: str, group: Group, generation: int) -> None:
        self.model = model
        self.base = base
        self.group = group
        self.generation = generation
        self.holders: list[Slot] = []
        self.engines: list[EngineInfo] = []  # theirs
        self.homes: list[Slot] = []  # which would have to load it
        self.edges: list[float] = []  # where each holder's part of the circle ends, by weight
        self.turn = 0.5  # on that circle
        self.pressure = 0  # how often it was over the bound of late
        self.loading = 0  # requests that wait for a load


class Lease:
    """A place for one request at one backend, until `end`. Without an engine, the model is cold there."""

    def __init__(self, slot: Slot, order: Order, engine: EngineInfo | None) -> None:
        self.member = slot.member
        self.engine = engine
        self._slot = slot
        self._order = order
        self._tries = slot.shut_until > 0.0  # it finds out whether the engine is back
        if self._tries:
            slot.tried = True
        slot.in_flight += 1
        if slot.counted:
            order.group.load += 1
        if engine is None:
            order.loading += 1
            slot.loading[order.model] = slot.loading.get(order.model, 0) + 1

    def end(self) -> None:
        """Give the place back."""
        slot, order = self._slot, self._order
        slot.in_flight -= 1
        if self._tries:
            slot.tried = False
        if slot.counted:
            order.group.load -= 1
        if self.engine is None:
            order.loading -= 1
            left = slot.loading[order.model] - 1
            if left:
                slot.loading[order.model] = left
            else:
                del slot.loading[order.model]

    def answered(self) -> None:
        """The engine is there."""
        slot = self._slot
        if slot.failures:
            slot.failures = slot.pauses = 0
            slot.shut_until = 0.0

    def failed(self, now: float) -> bool:
        """The engine is out of reach, or ended before it answered. Whether it is left alone for that."""
        slot = self._slot
        slot.failures += 1
        if slot.failures < FAILURES:
            return False
        slot.shut_until = now + min(LONGEST_PAUSE, FIRST_PAUSE * 2.0**slot.pauses)
        slot.pauses = min(slot.pauses + 1, 16)
        return True


class Balancer:
    """The backends of this proxy, and what it has in flight on each."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """The clock gives seconds and never goes back."""
        self.generation = 0
        self._clock = clock
        self._members: list[Member] = []
        self._groups: BoundedMap[str, Group] = BoundedMap(ORDERS)
        self._orders: BoundedMap[str, Order] = BoundedMap(ORDERS)
        self._ranks: BoundedMap[str, list[Member]] = BoundedMap(ORDERS)

    def replace(self, members: Iterable[Member]) -> None:
        """Choose among these from now on. What is in flight on others goes on."""
        self._members = list(members)
        self._ranks.clear()
        for group in self._groups.values():
            for name in tuple(group.slots):
                if not any(group.slots[name].member is member for member in self._members):
                    group.slots.pop(name).counted = False
        self.changed()

    def changed(self) -> None:
        """A backend opened or closed, or runs or holds something else than before."""
        self.generation += 1

    def told(self, member: Member) -> None:
        """Its engines told how long their queues are."""
        for engine in member.engines.values():
            group = self._groups.get(engine.base)
            slot = None if group is None else group.slots.get(member.name)
            if group is None or slot is None or slot.member is not member:
                continue
            before = slot.waiting
            _read_queue(slot, engine)
            if slot.counted:
                group.load += slot.waiting - before

    def lease(self, access: Access, avoided: Member | None = None) -> Lease | None:
        """A place for a request, elsewhere than at `avoided` if that can be; `None` if no backend is open."""
        order = self._order(access.model, str(access.base))
        group, holders = order.group, order.holders
        count = len(holders)
        start = 0
        if count > 1 and order.model == order.base:
            order.turn = turn = (order.turn + GOLDEN) % 1.0
            start = bisect_right(order.edges, turn) % count
        least = -1
        for step in range(start, start + count):
            at = step if step < count else step - count
            slot = holders[at]
            if slot.member is avoided or (slot.shut_until and not self._may_try(slot)):
                continue
            if _fits(slot, group):
                if order.pressure:
                    order.pressure -= 1
                return Lease(slot, order, order.engines[at])
            if least < 0 or _lighter(slot, holders[least]):
                least = at
        if least >= 0:
            order.pressure = min(order.pressure + 1, 2 * HOT)
            second = self._second(order, holders[least])
            if second is not None:
                return Lease(second, order, None)
            return Lease(holders[least], order, order.engines[least])
        home = self._home(order, avoided)
        if home is not None:
            return Lease(home, order, None)
        return Lease(holders[0], order, order.engines[0]) if holders else None

    def _may_try(self, slot: Slot) -> bool:
        """Whether its pause is over, and nobody else finds out."""
        return not slot.tried and self._clock() >= slot.shut_until

    def _second(self, order: Order, busiest: Slot) -> Slot | None:
        """Another backend for an adapter that is hot, one at a time; `None` if it is not or none has room."""
        if order.pressure < HOT or order.loading or order.model == order.base:
            return None
        if not busiest.waiting and busiest.in_flight < (busiest.seats or SEATS):
            return None  # over its share, but the engine keeps up
        for slot in order.homes:
            if not slot.shut_until and slot.counted and _fits(slot, order.group):
                order.pressure = 0
                return slot
        return None

    def _home(self, order: Order, avoided: Member | None) -> Slot | None:
        """Where a cold model is loaded."""
        usable = [slot for slot in order.homes if slot.member is not avoided]
        usable = [slot for slot in usable if not slot.shut_until or self._may_try(slot)] or usable
        if not usable:
            return order.homes[0] if order.homes else None
        for slot in usable:
            if order.model in slot.loading:  # for somebody else; they wait together
                return slot
        if order.model == order.base:
            return usable[0]
        for within in (True, False):
            for slot in usable:
                if _has_place(slot, order.base) and not (
                    within and slot.counted and not _fits(slot, order.group)
                ):
                    return slot
        return usable[0]

    def _order(self, model: str, base: str) -> Order:
        known = self._orders.get(model)
        if known is not None and known.generation == self.generation and known.base == base:
            return known
        return self._arrange(model, base, known)

    def _arrange(self, model: str, base: str, before: Order | None) -> Order:
        group = self._groups.get(base)
        if group is None:
            group = Group()
            self._groups.put(base, group)
        if group.generation != self.generation:
            self._count(group, base)
        order = Order(model, base, group, self.generation)
        if before is not None and before.base == base:
            order.turn, order.pressure = before.turn, before.pressure
        for member in self._ranked(model):
            if not member.open:
                continue
            engine = _holding(member, model, base)
            if engine is not None:
                order.holders.append(group.slots[member.name])
                order.engines.append(engine)
            elif _running(member, base):
                order.homes.append(_slot(group, member))
        if not order.holders and not order.homes:
            # All adapters of a base that runs nowhere go where it will be started.
            order.homes = [_slot(group, member) for member in self._ranked(base) if member.open]
        whole, part = sum(slot.member.weight for slot in order.holders), 0
        for slot in order.holders:
            part += slot.member.weight
            order.edges.append(part / whole)
        self._orders.put(model, order)
        return order

    def _count(self, group: Group, base: str) -> None:
        """Who runs the base, and how much is in flight there."""
        group.generation = self.generation
        group.load = group.weight = 0
        for slot in group.slots.values():
            slot.counted, slot.waiting = False, 0
        for member in self._members:
            engine = _holding(member, base, base) if member.open else None
            if engine is None:
                continue
            slot = _slot(group, member)
            slot.counted = True
            _read_queue(slot, engine)
            group.load += slot.in_flight + slot.waiting
            group.weight += member.weight

    def _ranked(self, key: str) -> list[Member]:
        known = self._ranks.get(key)
        if known is None:
            scored = [(_score(key, member), member.name, member) for member in self._members]
            scored.sort(key=_first_two)
            known = [member for _, _, member in scored]
            self._ranks.put(key, known)
        return known


def _first_two(scored: tuple[float, str, Member]) -> tuple[float, str]:
    return scored[0], scored[1]


def _score(key: str, member: Member) -> float:
    """Smaller comes first: so each is the first for its weight's share of all keys."""
    digest = sha256(f"{key}\n{member.name}".encode()).digest()
    drawn = (int.from_bytes(digest[:6], "big") + 0.5) / 2.0**48
    return -math.log(drawn) / member.weight


def _slot(group: Group, member: Member) -> Slot:
    slot = group.slots.get(member.name)
    if slot is None or slot.member is not member:
        slot = group.slots[member.name] = Slot(member)
    return slot


def _holding(member: Member, model: str, base: str) -> EngineInfo | None:
    for engine in member.engines.values():
        if engine.base == base and engine.state == "ready" and (model == base or model in engine.adapters):
            return engine
    return None


def _running(member: Member, base: str) -> bool:
    """Or about to."""
    return any(engine.base == base and engine.state in _RUNS for engine in member.engines.values())


def _has_place(slot: Slot, base: str) -> bool:
    """Whether an adapter fits in without another's leaving; so it is as long as the engine has not told."""
    for engine in slot.member.engines.values():
        if engine.base == base and engine.state == "ready" and engine.places:
            coming = 0
            for model in slot.loading:
                coming += model not in engine.adapters
            return len(engine.adapters) + coming < engine.places
    return True


def _fits(slot: Slot, group: Group) -> bool:
    """Whether one more stays within the bound; there is always one that can take a whole request."""
    fair = (group.load + 1) * slot.member.weight / (group.weight or 1)
    bound = max(BOUND * fair, math.ceil(fair))
    return slot.in_flight + slot.waiting + 1 <= bound


def _lighter(one: Slot, other: Slot) -> bool:
    mine, theirs = one.in_flight + one.waiting, other.in_flight + other.waiting
    return mine * other.member.weight < theirs * one.member.weight


def _read_queue(slot: Slot, engine: EngineInfo) -> None:
    queue = engine.queue
    slot.waiting = 0 if queue is None else queue.waiting
    slot.seats = 0 if queue is None else queue.seats
