"""Who is let in next: start-time fair queueing by caller, with several served at once.

Each caller has a tag, the virtual time at which what they were let in for will be done. Whoever waits with
the lowest one is next, and a request moves its caller's tag on by its cost over their weight (Goyal, Vin,
Cheng, "Start-time Fair Queueing", SIGCOMM 1996; with several at once that is SFQ(D) of Jin, Chase and Kaur,
SIGMETRICS 2004). The cost is a guess when the request is let in, and is set right by the tokens that are
made, while they are made, as in Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024. Who
comes to wait starts at the virtual time of those who wait: nobody saves up by staying away. What was used
while nobody waited took nothing from anybody, so that tags begin anew with each time in which somebody does.

All of it holds:

- **Work-conserving.** Whenever a seat is free, whoever waits is let in, but for those whose adapter waits
  for a slot, or is closed for one that does (see `hubgate.backend.plugin.shares.adapter_slots`).
- **Fair.** Of two callers who both wait all the time, neither gets more than the other, by weight, beyond
  the cost of the largest request of each.
- **No starvation.** Who comes to wait is let in after at most one request of each other caller whose
  requests cost as much, and in general after those of callers whose tags have not passed theirs.
- **A reserve.** With all seats taken, a few more are let in whose callers have less than their share.
"""

from collections import deque
from math import ceil
from operator import attrgetter, itemgetter
from typing import Final

from hubgate.backend.plugin.shares.adapter_slots import AdapterSlots
from hubgate.backend.plugin.shares.place import Caller, Place
from hubgate.wire.bounded_map import BoundedMap

REMEMBERED: Final = 10_000  # callers whose use is remembered until others have had as much
OVERTAKEN: Final = 64  # requests let in past one that waits for an adapter's slot, before anybody makes room


class FairOrder:
    """The seats of one engine. No clock, no I/O; whoever is let in later is told by `Place.on_let_in`."""

    def __init__(self, seats: int, reserve: int, adapters: int) -> None:
        """`seats` and `reserve` are sequences, `adapters` how many may run at once."""
        self.seats = seats
        self._most_reserved = reserve
        self._slots = AdapterSlots(adapters)
        self._callers: dict[str, Caller] = {}
        self._weights = 0  # of all of them
        self._waiters: dict[str, Caller] = {}
        # Of this era, of callers who have nothing here now.
        self._tags: BoundedMap[str, float] = BoundedMap(REMEMBERED)
        self._taken = 0  # seats, without the reserve
        self._reserved: dict[Place, None] = {}
        self._waiting = 0
        self._let_in = 0
        self._turns = 0
        self._era = 0
        self._virtual = 0.0

    @property
    def taken(self) -> int:
        """Sequences of all requests that are in."""
        return self._taken + sum([place.seats for place in self._reserved])

    @property
    def waiting(self) -> int:
        """Requests that are not in yet."""
        return self._waiting

    def heads(self) -> list[Place]:
        """Of those who wait: each caller's first for each adapter."""
        return [place for caller in self._waiters.values() for place in caller.heads()]

    def enter(self, place: Place) -> bool:
        """Let it in, or have it wait; whether it is in."""
        caller = self._known(place)
        if not self._waiting and self._taken < self.seats and self._slots.admits(place.adapter, place.sub):
            self._take(place, caller)
        else:
            self._queue(place, caller)
            self._admit()
        return place.is_in

    def leave(self, place: Place) -> None:
        """It has ended, or gives up to wait."""
        caller = place.caller
        if caller is None:
            return
        place.caller = None
        if place.is_in:
            self._give_back(place, caller)
        else:
            self._unqueue(place, caller)
        caller.places -= 1
        if not caller.places:
            del self._callers[caller.sub]
            self._weights -= caller.weight
            if caller.era == self._era and caller.tag > self._virtual:
                self._tags.put(caller.sub, caller.tag)
        self._admit()

    def hold(self, place: Place, seats: int) -> None:
        """One that is in has more sequences to run than before, or fewer; with none it holds no slot either.

        What it needs more it has at once: it runs already.
        """
        caller = place.caller
        if caller is None or not place.is_in or seats == place.seats:
            return
        more = seats - place.seats
        if not place.seats:
            self._slots.enter(place.adapter, place.sub)
        elif not seats:
            self._slots.leave(place.adapter, place.sub)
        place.seats = seats
        caller.seats += more
        caller.load = caller.seats / caller.weight
        if not place.is_reserved:
            self._taken += more
        elif not seats:
            del self._reserved[place]
            place.is_reserved = False
        if more < 0:
            self._promote()
            self._admit()

    def spend(self, place: Place, amount: float) -> None:
        """Charge what was really used, as far as it is more than what was guessed."""
        place.used += amount
        more = place.used - place.charged
        if more > 0:
            place.charged += more
            caller = place.caller
            if self._waiting and caller is not None:
                self._charge(caller, more)

    def waits(self, place: Place) -> int:
        """How many of its caller's wait."""
        return self._callers[place.sub].waits

    def ahead(self, place: Place) -> int:
        """About how many are let in before the last one of this caller's that waits."""
        own, weights = self._callers[place.sub], 0
        for caller in self._waiters.values():
            weights += caller.weight
        return min(self._waiting, ceil(own.waits * weights / own.weight)) - 1

    def positions(self) -> dict[Place, int]:
        """How many of those who wait are let in until each is, itself included, as it looks now.

        By tags alone: who waits for an adapter's slot may take longer.
        """
        starts: list[tuple[float, float, int, Place]] = []
        for caller in self._waiters.values():
            tag = caller.tag
            waiting = [place for queue in caller.waiting.values() for place in queue]
            if len(caller.waiting) > 1:
                waiting.sort(key=attrgetter("turn"))
            for place in waiting:
                starts.append((tag, caller.load, place.turn, place))
                tag += place.cost / caller.weight
        starts.sort(key=_start)
        return {start[3]: number for number, start in enumerate(starts, 1)}

    def _known(self, place: Place) -> Caller:
        caller = self._callers.get(place.sub)
        if caller is None:
            caller = self._callers[place.sub] = Caller(place.sub, place.weight)
            self._weights += place.weight
            caller.era, caller.tag = self._era, self._tags.pop(place.sub, 0.0)
        elif caller.weight != place.weight:
            self._weights += place.weight - caller.weight
            caller.weight = place.weight
            caller.load = caller.seats / caller.weight
        caller.places += 1
        place.caller = caller
        return caller

    def _take(self, place: Place, caller: Caller) -> None:
        place.is_in = True
        place.before = caller.seats
        place.charged = place.cost
        caller.seats += place.seats
        caller.load = caller.seats / caller.weight
        if place.is_reserved:
            self._reserved[place] = None
        else:
            self._taken += place.seats
        self._slots.enter(place.adapter, place.sub)
        self._let_in += 1

    def _give_back(self, place: Place, caller: Caller) -> None:
        caller.seats -= place.seats
        caller.load = caller.seats / caller.weight
        if place.seats:
            self._slots.leave(place.adapter, place.sub)
        if place.is_reserved:
            del self._reserved[place]
        else:
            self._taken -= place.seats
        self._promote()
        unused = place.charged - place.used
        if unused > 0 and place.era == self._era and self._waiting:
            self._charge(caller, -unused)

    def _promote(self) -> None:
        """Give those of the reserve the seats that are free, as others have them."""
        while self._reserved and self._taken < self.seats:
            first = next(iter(self._reserved))
            del self._reserved[first]
            first.is_reserved = False
            self._taken += first.seats

    def _charge(self, caller: Caller, amount: float) -> None:
        if caller.era != self._era:
            caller.era, caller.tag = self._era, 0.0
        caller.tag += amount / caller.weight

    def _queue(self, place: Place, caller: Caller) -> None:
        if not self._waiting:
            self._era += 1
            self._virtual = 0.0
            self._tags.clear()
        if not caller.waits:
            self._charge(caller, 0.0)
            caller.tag = max(caller.tag, self._now())
            caller.blocked = False
            self._waiters[caller.sub] = caller
            caller.turn = self._turns + 1
        self._turns += 1
        place.turn, place.seen = self._turns, self._let_in
        caller.waits += 1
        self._waiting += 1
        queue = caller.waiting.get(place.adapter)
        if queue is None:
            queue = caller.waiting[place.adapter] = deque()
        queue.append(place)

    def _unqueue(self, place: Place, caller: Caller) -> None:
        queue = caller.waiting[place.adapter]
        if queue[0] is place:
            queue.popleft()
        else:
            queue.remove(place)
        if not queue:
            del caller.waiting[place.adapter]
        caller.waits -= 1
        self._waiting -= 1
        if not caller.waits:
            del self._waiters[caller.sub]
        elif caller.turn == place.turn:
            caller.turn = min([queue[0].turn for queue in caller.waiting.values()])

    def _now(self) -> float:
        """The virtual time: that of the last one who was let in, or of those who wait and could be."""
        tags = [caller.tag for caller in self._waiters.values() if not caller.blocked]
        if tags:
            self._virtual = max(self._virtual, min(tags))
        return self._virtual

    def _admit(self) -> None:
        while self._waiting and (place := self._next()) is not None:
            caller = self._callers[place.sub]
            self._virtual = max(self._virtual, caller.tag)
            self._unqueue(place, caller)
            self._take(place, caller)
            place.era = self._era
            self._charge(caller, place.cost)
            place.on_let_in()

    def _next(self) -> Place | None:
        """The first in the fair order for whom there is room."""
        full = self._taken >= self.seats
        if full and len(self._reserved) >= self._most_reserved:
            return None
        look = self._slots.look()
        for caller in sorted(self._waiters.values(), key=_order):
            caller.blocked = False
            for place in caller.heads():
                if full and not self._is_below_share(caller, place):
                    continue
                overtaken = self._let_in - place.seen >= OVERTAKEN
                if look.admits(place.adapter, caller.sub, overtaken=overtaken):
                    place.is_reserved = full
                    return place
            caller.blocked = not full
        if not full:
            look.end()
        return None

    def _is_below_share(self, caller: Caller, place: Place) -> bool:
        """Whether its caller has no more than their share of the seats with it; one seat is everybody's."""
        return (caller.seats + place.seats) * self._weights <= max(self.seats * caller.weight, self._weights)


_start: Final = itemgetter(0, 1, 2)
# By tag; of equals, who has less of the seats, then who came first.
_order: Final = attrgetter("tag", "load", "turn")
