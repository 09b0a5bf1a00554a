"""Who pays when something has to make room, in words and in a thousand random plays."""

import random
from collections import Counter
from dataclasses import dataclass, field

from hubgate.backend.fairness.line import OPERATOR
from hubgate.backend.fairness.shares import Shares, Thing, Victim

RESIDENCY = 600.0  # seconds
PLAYS = 1000
STEPS = 40


def thing(
    key: str, *users: str, idle: float = 0, age: float = 9999, busy: int = 0, size: float = 1
) -> Thing[str]:
    """One that all of `users` used as long ago."""
    return Thing(key, size, dict.fromkeys(users, idle), idle, age, busy)


def goes(taker: str, *things: Thing[str], room: float | None = None, size: float = 1) -> tuple[str, str]:
    """What goes for this taker, and why."""
    found = Shares(things, room or len(things), taker, size, RESIDENCY).victim()
    return (found.thing.key, found.why) if found else ("", "")


def test_who_has_their_share_pays_with_their_own() -> None:
    """The longest unused of it, be there what nobody has used for a week."""
    mine = [thing("mine-1", "a", idle=5), thing("mine-2", "a", idle=9)]
    assert goes("a", *mine, thing("b", "b"), thing("c", "c", idle=10**6)) == ("mine-2", "own")


def test_without_own_to_spare_what_is_nobodys_pays() -> None:
    """Of that, the longest unused; never what another used a moment ago."""
    mine = [thing("mine-1", "a", busy=1), thing("mine-2", "a", busy=1)]
    assert goes("a", *mine, thing("b", "b", idle=700), thing("c", "c", idle=800)) == ("c", "unused")
    assert goes("a", *mine, thing("b", "b", idle=500), thing("c", "c", idle=0)) == ("", "")


def test_who_has_less_takes_from_whoever_has_most() -> None:
    """Also what was used a moment ago, but for what is in use; those within their share keep theirs."""
    many = [thing(f"a-{number}", "a", idle=number, age=number) for number in range(5)]
    fewer = [thing(f"b-{number}", "b", idle=500) for number in range(3)]
    assert goes("c", *many, *fewer) == ("a-4", "share")
    assert goes("c", *many, thing("old", "x", idle=RESIDENCY), *fewer) == ("old", "unused")
    busy = [thing(f"a-{number}", "a", age=1, busy=1) for number in range(5)]
    assert goes("c", *busy, *fewer) == ("b-0", "share")
    assert goes("c", *busy, thing("b", "b"), thing("mine", "c", idle=1), room=9) == ("mine", "own")


def test_a_thing_of_several_is_paid_for_by_all() -> None:
    """One use of another's does not make it one's own; and it goes only if all of them have too much."""
    shared = Thing("shared", 1, {"a": 1, "b": 100}, 1, 9999)
    assert goes("a", shared, thing("a-1", "a", idle=0), thing("a-2", "a", busy=1), room=3) == ("a-1", "own")
    many = [thing(f"a-{number}", "a", busy=1) for number in range(5)]
    assert goes("c", shared, *many, room=6) == ("", ""), "b has half a place, and keeps it"


def test_more_callers_than_places_take_turns() -> None:
    """Somebody who has nothing gets what was there for longest, if that is long enough."""
    one_each = [thing(str(number), f"c-{number}", age=100 * number) for number in range(8)]
    assert goes("new", *one_each) == ("7", "turn")
    assert goes("new", *one_each[:6], room=6) == ("", "")
    assert goes("c-1", *one_each) == ("1", "own")


def test_the_operator_may_have_anything_that_is_not_in_use() -> None:
    """Its own are no part of the room: here b has all that is left."""
    assert goes(OPERATOR, thing("a", "a", idle=3), thing("b", "b", idle=4)) == ("b", "operator")
    own = [thing(f"own-{number}", OPERATOR, idle=50) for number in range(3)]
    assert goes("a", *own) == ("", "")
    assert goes("a", *own, thing("b-1", "b"), thing("b-2", "b")) == ("b-1", "share"), (
        "b has both that are left"
    )


def test_sizes_count() -> None:
    """In bytes: one who holds half of the room in one piece has as much as with many."""
    things = [thing("large", "a", size=60, idle=2), thing("small", "b", size=10, idle=9)]
    assert goes("c", *things, room=100, size=33) == ("large", "share")
    assert goes("b", *things, room=100, size=45) == ("small", "own"), "it would be above its own share"
    assert goes("b", *things, room=100, size=40) == ("large", "share")


def test_what_is_in_use_is_named_for_whoever_is_entitled() -> None:
    """Of whoever has most, what the fewest use; those that could not be had before apart."""
    busy = [thing(f"a-{number}", "a", busy=number + 1) for number in range(3)]
    shares = Shares(busy, 3, "b", 1, RESIDENCY)
    assert shares.victim() is None
    found = [shares.in_use(), shares.in_use(["a-0"]), shares.in_use(["a-0", "a-1", "a-2"])]
    assert [one and (one.thing.key, one.why) for one in found] == [("a-0", "share"), ("a-1", "share"), None]
    assert Shares(busy, 3, "a", 1, RESIDENCY).in_use() is None


@dataclass
class Item:
    """One thing of a play."""

    key: str
    came: float
    used: dict[str, float]
    busy: int = 0


@dataclass
class Place:
    """Some places, and a clock."""

    room: int
    now: float = 0.0
    items: dict[str, Item] = field(default_factory=dict)
    evicted: list[tuple[str, str, Victim[str]]] = field(default_factory=list)

    def things(self) -> list[Thing[str]]:
        return [
            Thing(
                item.key,
                1,
                {user: self.now - at for user, at in item.used.items()},
                self.now - max(item.used.values()),
                self.now - item.came,
                item.busy,
            )
            for item in self.items.values()
        ]

    def use(self, key: str, who: str) -> bool | None:
        """True: it was there. False: it is now. `None`: there is no room."""
        if (hit := key in self.items) or self._make_room(key, who):
            self.items.setdefault(key, Item(key, self.now, {})).used[who] = self.now
            return hit
        return None

    def _make_room(self, key: str, who: str) -> bool:
        if len(self.items) < self.room:
            return True
        found = Shares(self.things(), self.room, who, 1, RESIDENCY).victim()
        rule(self, who, found)
        if found is None:
            return False
        self.evicted.append((who, key, found))
        del self.items[found.thing.key]
        return True


def rule(place: Place, who: str, found: Victim[str] | None) -> None:
    """The reference: the rule word for word, with sets and nothing clever."""
    users = {
        item.key: {user for user, at in item.used.items() if place.now - at < RESIDENCY}
        for item in place.items.values()
    }
    held: Counter[str] = Counter()
    for theirs in users.values():
        for user in theirs:
            held[user] += 1 / len(theirs)  # type: ignore[assignment]  # parts of places
    share = max(place.room / len({*held, who}), 1) + 1e-6
    entitled = held[who] + 1 <= share
    free = {item.key for item in place.items.values() if not item.busy}
    own = {key for key in free if users[key] == {who}}
    unused = {key for key in free if not users[key]}
    above = {key for key in free if users[key] and all(held[user] > share for user in users[key])}
    waited = {
        key
        for key in free
        if place.now - place.items[key].came >= RESIDENCY
        and place.room < len({*held, who})
        and sum(held[user] for user in users[key]) + 1e-6 >= held[who] + 1
    }
    order = [unused, above, own, waited] if entitled else [own, unused]
    first = next((some for some in order if some), set[str]())
    # Work-conserving: nothing is refused while something may go.
    assert (found is None) == (not first)
    if found is None:
        return
    assert found.thing.key in first
    if first in (own, unused):
        idle = {key: max(place.items[key].used.values()) for key in first}
        assert idle[found.thing.key] == min(idle.values())
    if first is above:
        most = max(min(held[user] for user in users[key]) for key in above)
        assert min(held[user] for user in users[found.thing.key]) > most - 1e-6


def test_evictions_are_paid_by_the_rule_in_a_thousand_plays() -> None:
    """Two to twenty callers, of whom one has far more wishes than all others."""
    for seed in range(PLAYS):
        dice = random.Random(seed)  # noqa: S311
        names = [f"caller-{number}" for number in range(dice.randint(2, 20))]
        place = Place(dice.randint(1, 8))
        for _ in range(STEPS):
            place.now += dice.choice((0, 1, 30, 300))
            who = names[0] if dice.random() < 0.5 else dice.choice(names)
            whose = who if dice.random() < 0.8 else dice.choice(names)
            place.use(f"{whose}-{dice.randint(0, 20 if who == names[0] else 2)}", who)
            if place.items:
                item = dice.choice(list(place.items.values()))
                item.busy = dice.choice((0, 0, 1, 3))


def test_nobody_starves() -> None:
    """Who has nothing gets a place within two residencies, whatever all others use all the time."""
    for seed in range(100):
        dice = random.Random(seed)  # noqa: S311
        place, others = Place(dice.randint(1, 8)), dice.randint(1, 20)
        waited = 0
        while place.use("mine", "late") is None:
            place.now += 10
            waited += 10
            assert waited <= 2 * RESIDENCY
            for number in range(others):
                place.use(f"{number}-{dice.randint(0, 3)}", f"caller-{number}")
            for item in place.items.values():  # used all the time, and never in this very moment
                item.used.update(dict.fromkeys(item.used, place.now))


def test_a_storm_leaves_the_others_their_hits() -> None:
    """One caller who loads something new each second: those who use theirs within a residency keep it."""
    for seed in range(30):
        dice = random.Random(seed)  # noqa: S311
        others = [f"caller-{number}" for number in range(dice.randint(1, 7))]
        place = Place(dice.choice((8, 16, 64)))
        each = place.room // (len(others) + 1)
        hits: Counter[bool | None] = Counter()
        for second in range(300):
            place.now += 1
            place.use(f"storm-{second}", "greedy")
            if dice.random() < 0.5:
                who = dice.choice(others)
                hits[place.use(f"{who}-{dice.randrange(each)}", who)] += 1
        first_times = len([key for key in place.items if key.startswith("caller")])
        assert hits[True] >= 0.9 * (hits.total() - first_times), hits
