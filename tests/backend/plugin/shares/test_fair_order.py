"""Who is let in next: fair by weight, nothing idle, nobody starved, whoever leaves whenever."""

import random
from itertools import count
from typing import Any

from hubgate.backend.plugin.shares.fair_order import FairOrder
from hubgate.backend.plugin.shares.place import Place
from tests.backend.plugin.shares.reference import Asked, Reference
from tests.cases import each

PLAYS = 1000
WEIGHTS = (64, 128, 256)  # fractions of which a float holds exactly, so that no order hangs on rounding


class Told:
    """The order, and who was let in since somebody looked; requests have names, of a caller and a number."""

    def __init__(self, seats: int, reserve: int = 0, adapters: int = 0) -> None:
        self.order = FairOrder(seats, reserve, adapters)
        self.places: dict[str, Place] = {}
        self._known: set[str] = set()

    def ask(self, *names: str, **more: Any) -> None:
        more.setdefault("spent", more.get("cost", 1.0))  # so that the guess was right
        for name in names:
            self.places[name] = Place(name.rstrip("0123456789"), **more)
            self.order.enter(self.places[name])

    def end(self, *names: str) -> None:
        for name in names:
            self.order.leave(self.places.pop(name))

    def inside(self) -> list[str]:
        return [name for name, place in self.places.items() if place.is_in]

    def since(self) -> list[str]:
        new = [name for name in self.inside() if name not in self._known]
        self._known.update(new)
        return new


@each("seed", range(4))
def test_random_plays_end_as_in_the_reference(seed: int) -> None:
    """Whatever comes, goes, gives up, and costs more or less than was guessed: the same are in each time."""
    for play in range(PLAYS // 4):
        _play(random.Random(seed * PLAYS + play))  # noqa: S311 - a game


def _play(chance: random.Random) -> None:
    seats, reserve = chance.randint(1, 8), chance.randint(0, 3)
    order, reference = FairOrder(seats, reserve, 0), Reference(seats, reserve)
    weights = {f"c{number}": chance.choice(WEIGHTS) for number in range(chance.randint(2, 20))}
    pairs: list[tuple[Place, Asked]] = []
    for number in count():
        if number == 120:
            break
        step = chance.random()
        if step < 0.5 or not pairs:
            who = chance.choice(list(weights))
            wants, cost = chance.choice((1, 1, 1, 2, 4)), 2 ** chance.randint(0, 6)
            place = Place(who, weight=weights[who], seats=wants, cost=cost)
            asked = Asked(who, weights[who], wants, cost, number)
            pairs.append((place, asked))
            order.enter(place)
            reference.enter(asked)
        elif step < 0.57:
            place, asked = chance.choice(pairs)
            if place.is_in:
                now = chance.randint(0, 4)
                order.hold(place, now)
                reference.hold(asked, now)
        elif step < 0.68:
            place, asked = chance.choice(pairs)
            if place.is_in:
                amount = 2 ** chance.randint(0, 5)
                order.spend(place, amount)
                reference.spend(asked, amount)
        else:
            place, asked = pairs.pop(chance.randrange(len(pairs)))
            order.leave(place)
            reference.leave(asked)
        assert [place.is_in for place, _ in pairs] == [asked.state == "in" for _, asked in pairs]
        _holds(order, reference, pairs)
    for place, _ in pairs:
        order.leave(place)
    assert (order.taken, order.waiting, order._callers, order._weights) == (0, 0, {}, 0)


def test_places_are_those_of_the_order_that_follows() -> None:
    """Of requests of all sizes and weights: they are let in as was said, where nobody comes meanwhile."""
    for seed in range(PLAYS // 5):
        chance, told = random.Random(seed), Told(1)  # noqa: S311 - a game
        weights = {"abcdefgh"[number]: chance.choice(WEIGHTS) for number in range(chance.randint(2, 8))}
        told.ask("z0")
        for number in range(30):
            who = chance.choice(list(weights))
            told.ask(f"{who}{number}", weight=weights[who], cost=2.0 ** chance.randint(0, 6))
        positions = told.order.positions()
        names = {place: name for name, place in told.places.items()}
        said = [names[place] for place in sorted(positions, key=positions.__getitem__)]
        assert sorted(positions.values()) == list(range(1, 31))
        told.since()
        seen = []
        while told.order.waiting:
            told.end(*told.inside())
            seen += told.since()
        assert seen == said


def _holds(order: FairOrder, reference: Reference, pairs: list[tuple[Place, Asked]]) -> None:
    """No seat is free while somebody waits, and no more are in than may be."""
    inside = [place for place, _ in pairs if place.is_in]
    assert order.waiting == len(pairs) - len(inside)
    assert order.taken == sum(place.seats for place in inside)
    normal = [place for place in inside if not place.is_reserved]
    if order.waiting:
        assert sum(place.seats for place in normal) >= reference.seats
    assert len(inside) - len(normal) <= reference.reserve


def test_a_free_seat_is_everybodys() -> None:
    """One caller alone has all of them."""
    told = Told(3)
    told.ask(*(f"a{number}" for number in range(5)))
    assert told.since() == ["a0", "a1", "a2"]


def test_a_light_caller_has_the_next_free_seat() -> None:
    """However many of another's wait."""
    told = Told(3)
    told.ask(*(f"a{number}" for number in range(20)), "b0")
    told.since()
    told.end("a0")
    assert told.since() == ["b0"]


def test_a_light_caller_has_the_reserve_at_once() -> None:
    """And who has their share of the seats does not, so that it is there for the next."""
    told = Told(4, reserve=2)
    told.ask(*(f"a{number}" for number in range(20)))
    assert len(told.since()) == 4
    told.ask("b0")
    assert told.since() == ["b0"]
    told.ask("c0")
    assert told.since() == ["c0"]
    told.ask("d0")
    assert told.since() == []
    told.end("a0")  # b has a seat now, as others have, and its place is d's
    assert told.since() == ["d0"]


def test_two_who_want_all_come_to_have_half_each() -> None:
    """Seats go from one to the other as requests end."""
    told = Told(8)
    told.ask(*(f"a{number}" for number in range(40)), cost=10.0)
    told.ask(*(f"b{number}" for number in range(40)), cost=10.0)
    told.since()
    told.end(*(f"a{number}" for number in range(8)))
    assert sorted(name[0] for name in told.since()) == list("aaaabbbb")


@each(("weight", "share"), [(100, 20), (300, 30), (50, 13)])
def test_a_weight_is_a_share(weight: int, share: int) -> None:
    """Three times the weight, three times the requests, while both want more."""
    told = Told(1)
    told.ask("z0")
    told.ask(*(f"a{number}" for number in range(50)), cost=10.0)
    told.ask(*(f"b{number}" for number in range(50)), cost=10.0, weight=weight)
    told.end("z0")
    got = []
    for _ in range(40):
        (name,) = told.inside()
        got.append(name[0])
        told.end(name)
    assert abs(got.count("b") - share) <= 1


def test_eight_answers_count_eight() -> None:
    """Who asks for eight at a time gets an eighth of the requests."""
    told = Told(8)
    told.ask("z0", seats=8)
    told.ask(*(f"a{number}" for number in range(40)), seats=8, cost=80.0)
    told.ask(*(f"b{number}" for number in range(40)), cost=10.0)
    told.end("z0")
    ended = ""
    for _ in range(36):
        name = told.inside()[0]
        ended += name[0]
        told.end(name)
    assert 3 <= ended.count("a") <= 6


def test_tokens_that_are_made_count() -> None:
    """Two whose requests looked alike: the one whose answers are long waits for the other."""
    told = Told(2)
    told.ask("a0", "b0", *(f"a{number}" for number in range(1, 9)), *(f"b{number}" for number in range(1, 9)))
    told.order.spend(told.places["a0"], 100)
    told.end("b0")
    assert told.inside() == ["a0", "a1"] or told.inside() == ["a0", "b1"]
    for number in range(1, 9):
        assert f"b{number}" in told.inside()
        told.end(f"b{number}")
    assert "a1" in told.inside()


def test_a_guess_that_was_too_high_is_given_back() -> None:
    """Short answers to what looked long are short ones."""
    told = Told(1)
    told.ask("z0")
    told.ask(*(f"a{number}" for number in range(20)), cost=100.0, spent=0.0)
    told.ask(*(f"b{number}" for number in range(20)), cost=10.0, spent=0.0)
    told.end("z0")
    got = ""
    for _ in range(20):
        (name,) = told.inside()
        got += name[0]
        told.order.spend(told.places[name], 10)
        told.end(name)
    assert got.count("a") == 10


def test_nobody_saves_up_by_staying_away() -> None:
    """Who comes after a thousand requests of another's takes turns with it, and is not owed a thousand."""
    told = Told(1)
    told.ask("z0")
    for number in range(1000):
        told.ask(f"a{number}", f"a{number + 1}") if not number else told.ask(f"a{number + 1}")
        told.end(told.inside()[0])
    told.ask(*(f"b{number}" for number in range(20)), "a2000", "a2001", "a2002")
    got = ""
    for _ in range(6):
        (name,) = told.inside()
        got += name[0]
        told.end(name)
    assert got.count("a") == 3


def test_what_was_used_while_nobody_waited_is_not_held_against_anybody() -> None:
    """It took nothing from anybody; and who waited and was let in is owed nothing for it."""
    told = Told(2)
    told.ask("a0")
    told.order.spend(told.places["a0"], 1e6)
    told.ask("b0", "a1", "b1", "a2", "b2")
    for ended, inside in (("b0", ["a0", "b1"]), ("b1", ["a0", "a1"]), ("a1", ["a0", "b2"])):
        told.end(ended)
        assert told.inside() == inside


def test_newcomers_wait_for_one_request_of_each_other_caller_at_most() -> None:
    """The bound of starvation, where requests cost as much: however many callers there are, and wait."""
    for others in (1, 5, 40):
        told = Told(1)
        told.ask("z0")
        for number in range(50):
            told.ask(*(f"{'c' * (other + 1)}{number}" for other in range(others)))
        told.end("z0")
        for _ in range(others * 3):
            told.end(told.inside()[0])
        told.ask("new0")
        waited = 0
        while "new0" not in told.inside():
            told.end(told.inside()[0])
            waited += 1
        assert waited <= others + 1


def test_who_gives_up_costs_nothing() -> None:
    """Their places go to those behind, and their share is not less for it."""
    told = Told(1)
    told.ask("z0", *(f"a{number}" for number in range(20)), "b0", "a20")
    told.end(*(f"a{number}" for number in range(20)))
    told.end("z0")
    assert told.inside() in (["a20"], ["b0"])
    told.end(told.inside()[0])
    told.end(told.inside()[0])
    assert (told.order.taken, told.order.waiting) == (0, 0)


def test_who_comes_back_is_charged_for_what_they_had() -> None:
    """Having nothing here for a moment is not forgotten: one dear request at a time is no way to more."""
    told = Told(1)
    told.ask("z0", *(f"b{number}" for number in range(60)))
    told.end("z0")
    told.ask("a0", cost=20.0)
    got = ""
    for number in range(1, 40):
        (name,) = told.inside()
        got += name[0]
        told.end(name)
        if name[0] == "a":
            told.ask(f"a{number}", cost=20.0)
    assert got.count("a") in (1, 2, 3)


def test_one_stream_that_is_kept_open_is_worth_nothing_later() -> None:
    """Who has something running all the time, and does not wait, saves nothing up."""
    told = Told(2)
    told.ask("a0", "z0", *(f"b{number}" for number in range(200)))
    told.end("z0")
    for number in range(100):
        told.end(f"b{number}")
    told.ask(*(f"a{number}" for number in range(1, 50)))
    got = ""
    for _ in range(20):
        name = next(name for name in told.inside() if name != "a0")
        got += name[0]
        told.end(name)
    assert abs(got.count("a") - 10) <= 1


def test_hammering_does_not_pay() -> None:
    """Who gives up each time and asks again is no sooner in than by waiting."""
    told = Told(1)
    told.ask("z0", *(f"b{number}" for number in range(9)), *(f"c{number}" for number in range(9)))
    for number in range(500):
        told.ask(f"a{number}")
        if number < 499:
            told.end(f"a{number}")
    told.end("z0")
    first = told.inside()
    told.end(*first)
    second = told.inside()
    told.end(*second)
    third = told.inside()
    assert sorted(name[0] for name in (*first, *second, *third)) == ["a", "b", "c"]


def test_leaving_twice_is_leaving_once() -> None:
    """As whoever is turned away, and then ends."""
    order = FairOrder(1, 0, 0)
    first, second = Place("a"), Place("a")
    assert order.enter(first)
    assert not order.enter(second)
    order.leave(second)
    order.leave(second)
    order.leave(first)
    order.leave(first)
    assert (order.taken, order.waiting) == (0, 0)


def test_ranks_tell_whose_newest_is_the_first_to_go() -> None:
    """By the seats that a caller had before; what needs none any more does not count."""
    told = Told(9)
    told.ask("a0", "a1", "a2", "b0")
    told.order.hold(told.places["a0"], 0)
    told.ask("a3")
    before = {name: place.before for name, place in told.places.items()}
    assert before == {"a0": 0, "a1": 1, "a2": 2, "b0": 0, "a3": 2}


def test_what_the_engine_is_done_with_holds_no_seat() -> None:
    """However slowly its caller takes the answer; if the engine has more to do for it, it has one again."""
    told = Told(2, adapters=1)
    told.ask("a0", "a1", adapter="one")
    told.ask("b0", adapter="two")
    told.order.hold(told.places["a0"], 0)
    assert "b0" not in told.inside()
    told.order.hold(told.places["a1"], 0)
    assert told.inside() == ["a0", "a1", "b0"]
    assert told.order.taken == 1
    told.order.hold(told.places["a0"], 1)
    assert told.order.taken == 2
    told.end("a1", "a0", "b0")
    assert (told.order.taken, told.order._callers) == (0, {})


def test_the_answers_of_one_request_give_their_seats_back_one_by_one() -> None:
    """Seven that are done do not wait for the eighth."""
    told = Told(8)
    told.ask("a0", seats=8)
    told.ask(*(f"b{number}" for number in range(8)))
    for left in range(7, 0, -1):
        told.order.hold(told.places["a0"], left)
        assert told.order.taken == 8
    assert len(told.inside()) == 8


def test_a_request_that_runs_more_than_it_said_has_what_it_runs() -> None:
    """As where an older proxy tells no cost: others wait for what really runs."""
    told = Told(4)
    told.ask("a0")
    told.order.hold(told.places["a0"], 4)
    told.ask("b0")
    assert told.inside() == ["a0"]


def test_with_nobody_waiting_nothing_is_looked_through() -> None:
    """A thousand callers have their requests in; one more is a few look-ups, and sorts nobody."""
    told = Told(2000)
    told.ask(*(f"{'c' * 3}{number}" for number in range(1000)))
    told.order._next = None  # type: ignore[assignment, method-assign]
    told.ask("new0")
    told.end("new0")
    assert len(told.inside()) == 1000
