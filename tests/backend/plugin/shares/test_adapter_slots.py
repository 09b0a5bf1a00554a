"""Adapters and their slots: no more at once than vLLM runs, and none is overtaken for ever."""

import random
from collections import Counter

from hubgate.backend.plugin.shares.fair_order import FairOrder
from hubgate.backend.plugin.shares.place import Place
from tests.cases import each

SEATS = 8


class Streams:
    """Requests for adapters, by names such as `a0/one`: caller, number, adapter; `a0/` is for the base."""

    def __init__(self, adapters: int, seats: int = SEATS) -> None:
        self.order = FairOrder(seats, 0, adapters)
        self.places: dict[str, Place] = {}

    def ask(self, *names: str) -> None:
        for name in names:
            who, _, adapter = name.partition("/")
            place = Place(who.rstrip("0123456789"), adapter=adapter or None, cost=10.0, spent=10.0)
            self.places[name] = place
            self.order.enter(place)

    def end(self, *names: str) -> None:
        for name in names:
            self.order.leave(self.places.pop(name))

    def inside(self) -> list[str]:
        return [name for name, place in self.places.items() if place.is_in]

    def adapters(self) -> set[str]:
        return {place.adapter for place in self.places.values() if place.is_in and place.adapter}


def test_no_more_adapters_run_than_there_are_slots() -> None:
    """One more waits here: vLLM would skip it for as long as others come for those that run."""
    streams = Streams(2)
    streams.ask("a0/one", "b0/two", "c0/three", "d0/one", "d1/")
    assert "c0/three" not in streams.inside()
    assert "d1/" in streams.inside()
    assert streams.adapters() == {"one", "two"}


def test_staggered_streams_on_all_slots_do_not_keep_another_adapter_out() -> None:
    """One caller keeps both slots busy, with streams that overlap; the victim waits for one to run dry."""
    streams = Streams(3)
    streams.ask(*(f"a{number}/{'one' if number % 2 else 'two'}" for number in range(7)), "z0/last")
    streams.ask("b0/three")
    for number in range(8, 100):
        ended = next(name for name in streams.inside() if name.startswith("a"))
        streams.end(ended)
        streams.ask(f"a{number}/{'one' if number % 2 else 'two'}")
        if "b0/three" in streams.inside():
            break
    assert number < 8 + 8
    assert streams.adapters() in ({"one", "three", "last"}, {"two", "three", "last"})


def test_the_adapter_with_fewer_requests_makes_room() -> None:
    """It is the sooner one to run dry; requests for the other one go on."""
    streams = Streams(3)
    streams.ask("a0/one", "a1/two", "a2/two", "z0/last", "b0/three", "a3/one", "a4/two")
    assert "a3/one" not in streams.inside()
    assert "a4/two" in streams.inside()
    streams.end("a0/one")
    assert streams.adapters() == {"two", "three", "last"}


def test_where_each_caller_has_one_they_take_turns() -> None:
    """The adapter that has been in for longest makes room, however many ask for it."""
    streams = Streams(2)
    streams.ask("a0/one", "a1/one", "a2/one", "b0/two", "c0/three", "a3/one", "b1/two")
    assert "a3/one" not in streams.inside()
    assert "b1/two" in streams.inside()
    streams.end("a0/one", "a1/one", "a2/one")
    assert streams.adapters() == {"two", "three"}


def test_nobody_gives_their_only_slot_to_who_would_have_two() -> None:
    """Two callers with a slot each keep it; whose second adapter waits has to make room for it themselves."""
    streams = Streams(2)
    streams.ask("a0/one", "b0/two", "a1/three", "b1/two", "a2/one")
    assert "b1/two" in streams.inside()
    assert "a2/one" not in streams.inside()
    streams.end("a0/one")
    assert streams.adapters() == {"two", "three"}


def test_the_last_slot_is_for_who_has_none() -> None:
    """So that nobody has to wait for the streams of one who holds all the others."""
    streams = Streams(4)
    streams.ask("a0/one", "a1/two", "a2/three", "a3/four")
    assert streams.adapters() == {"one", "two", "three"}
    streams.ask("b0/five")
    assert streams.adapters() == {"one", "two", "three", "five"}


def test_the_base_needs_no_slot() -> None:
    """Whatever waits for one."""
    streams = Streams(1)
    streams.ask("a0/one", "b0/two", "c0/", "b1/")
    assert streams.inside() == ["a0/one", "c0/", "b1/"]


def test_what_is_closed_opens_again_when_the_one_who_waits_has_left() -> None:
    """Nobody is kept waiting for somebody who is gone."""
    streams = Streams(1)
    streams.ask("a0/one", "b0/two", "a1/one")
    assert streams.inside() == ["a0/one"]
    streams.end("b0/two")
    assert streams.inside() == ["a0/one", "a1/one"]


def test_an_engine_without_adapters_lets_the_base_in() -> None:
    """And nobody asks it for others."""
    streams = Streams(0)
    streams.ask("a0/", "b0/")
    assert streams.inside() == ["a0/", "b0/"]


@each("seed", range(4))
def test_random_plays_starve_nobody(seed: int) -> None:
    """Streams of bounded length, more adapters than slots, callers who always have more: each is let in.

    The bound: no request is longer than `LONGEST` steps, and each caller has at most so many requests before
    one's own turn comes; each turn waits for one adapter to run dry.
    """
    for play in range(250):
        _play(random.Random(seed * 1000 + play))  # noqa: S311 - a game


LONGEST = 6  # steps of a stream


def _play(chance: random.Random) -> None:
    slots, seats = chance.randint(1, 5), chance.randint(2, 8)
    callers = [chr(ord("a") + number) for number in range(chance.randint(2, 5))]
    adapters = {who: [f"{who}-{n}" for n in range(chance.randint(1, 3))] + ["shared", ""] for who in callers}
    most = chance.randint(1, 10)  # requests of a caller's at once
    streams = Streams(slots, seats)
    since: dict[str, int] = {}
    ends: dict[str, int] = {}
    waited = 0
    number = 0
    for step in range(150):
        for name in [name for name, end in ends.items() if end <= step]:
            streams.end(name)
            del ends[name], since[name]
        if chance.random() < 0.1 and (waiting := [name for name in since if name not in ends]):
            gone = chance.choice(waiting)
            streams.end(gone)
            del since[gone]
        counts = Counter(name[0] for name in since)
        for who in callers:
            if counts[who] < most and chance.random() < 0.8:
                name = f"{who}{number}/{chance.choice(adapters[who])}"
                number += 1
                since[name] = step
                streams.ask(name)
        inside = streams.inside()
        for name in inside:
            if name not in ends:
                ends[name] = step + chance.randint(1, LONGEST)
                waited = max(waited, step - since[name])
        waited = max([waited, *(step - since[name] for name in since if name not in ends)])
        assert len(streams.adapters()) <= slots
        _nothing_idle(streams, slots, seats)
    # A caller's own requests before it, each after one of each other caller, each after an adapter ran dry.
    assert waited <= 2 * LONGEST * (1 + most * len(callers))


def _nothing_idle(streams: Streams, slots: int, seats: int) -> None:
    """With a seat free nobody waits for the base, nor for a slot that is free."""
    waiting = [place for place in streams.places.values() if not place.is_in]
    if len(streams.inside()) >= seats:
        return
    assert all(place.adapter is not None for place in waiting)
    if slots - len(streams.adapters()) >= (1 if slots == 1 else 2):
        assert all(place.adapter in streams.adapters() for place in waiting)
