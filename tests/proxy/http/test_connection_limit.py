"""Which connection goes where there are too many."""

import random
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from hubgate.proxy.http.connection_limit import LOOKED_AT, ConnectionLimit, most_connections
from tests.cases import each

BALANCER = "10.0.0.1"
PLAYS = 1_000


@dataclass(eq=False)
class Connection:
    """One that does nothing."""

    peer: str = "203.0.113.7"
    idle: bool = True

    def abort(self) -> None: ...


def limit(most: int = 10) -> ConnectionLimit:
    return ConnectionLimit(most, lambda peer: peer == BALANCER)


def opened(limit: ConnectionLimit, count: int, peer: str = "203.0.113.7") -> list[Connection]:
    """So many of one address, none of which has to go or makes another one go."""
    made = [Connection(peer) for _ in range(count)]
    assert [limit.opened(one) for one in made] == [None] * count
    return made


@each(
    ("descriptors", "most"),
    [(256, 64), (1024, 448), (4096, 1984), (40_128, 20_000), (1_048_576, 20_000), (64, 16), (3, 1), (0, 1)],
)
def test_descriptors_are_kept_for_the_rest(descriptors: int, most: int) -> None:
    """Each connection may need a second descriptor to an engine; files, Hub and backends have their own."""
    assert most_connections(descriptors) == most


def test_the_oldest_stranger_goes() -> None:
    """Those that authenticated stay, however old they are and however many come."""
    held = limit(10)
    known, *strangers = opened(held, 5, BALANCER)
    rest = opened(held, 5, "192.0.2.1")
    held.admitted(known)
    assert [held.opened(Connection(BALANCER)) for _ in range(6)] == [*strangers, *rest[:2]]
    assert len(held) == 10


def test_one_that_waits_goes_after_those_that_do_not() -> None:
    """A first request may be with the Hub: an idle connection goes first, if one is among the oldest."""
    held = limit(100)
    made = opened(held, LOOKED_AT + 2, BALANCER) + opened(held, 100 - LOOKED_AT - 2, BALANCER)
    for busy in made[:LOOKED_AT]:
        busy.idle = False
    assert held.opened(Connection(BALANCER)) is made[0]
    assert held.opened(Connection(BALANCER)) is made[LOOKED_AT]


def test_where_all_are_known_the_new_one_goes() -> None:
    """Nobody who is served loses a connection to somebody who comes."""
    held = limit(4)
    made = opened(held, 4, BALANCER)
    for one in made:
        held.admitted(one)
    new = Connection("192.0.2.1")
    assert held.opened(new) is new
    assert len(held) == 4
    held.closed(new, admitted=False)  # it says so itself, afterwards
    assert len(held) == 4
    held.closed(made[0], admitted=True)
    assert held.opened(new) is None


def test_one_client_has_a_share() -> None:
    """Past it, one address makes only its own connections go; others have the rest."""
    held = limit(10)
    mine = opened(held, 5)
    assert held.opened(Connection()) is mine[0]
    others = opened(held, 5, "192.0.2.1")
    assert held.opened(Connection("192.0.2.1")) is others[0]
    assert len(held) == 10


def test_a_prefix_is_one_client() -> None:
    """Each address of a /64 is the same client's."""
    held = limit(10)
    made = [Connection(f"2001:db8::{number}") for number in range(5)]
    assert [held.opened(one) for one in made] == [None] * 5
    assert held.opened(Connection("2001:db8::ffff")) is made[0]


def test_a_client_whose_connections_are_all_known() -> None:
    """It gets no more than its share, and another client gets a connection."""
    held = limit(10)
    for one in opened(held, 5):
        held.admitted(one)
    new = Connection()
    assert held.opened(new) is new
    opened(held, 1, "192.0.2.1")


def test_a_load_balancer_has_no_share() -> None:
    """It stands for many clients, and may hold all."""
    opened(limit(10), 10, BALANCER)


@given(st.lists(st.tuples(st.sampled_from("oac"), st.integers(0, 30), st.integers(0, 3)), max_size=200))
def test_it_never_loses_count(steps: list[tuple[str, int, int]]) -> None:
    """Whatever is opened, authenticated and closed, its number is that of the connections that are open."""
    held, there = limit(8), dict[Connection, bool]()
    for what, number, peer in steps:
        if what == "o":
            new = Connection(BALANCER if peer == 3 else f"192.0.2.{peer}", idle=number % 2 == 0)
            there[new] = False
            goes = held.opened(new)
            if goes is not None:
                assert isinstance(goes, Connection)
                assert not there.pop(goes)
                held.closed(goes, admitted=False)
        elif there:
            one = list(there)[number % len(there)]
            if what == "a" and not there[one]:
                there[one] = True
                held.admitted(one)
            elif what == "c":
                held.closed(one, admitted=there.pop(one))
        assert len(held) == len(there) <= 8
        for address in range(3):
            assert sum(one.peer == f"192.0.2.{address}" for one in there) <= 4
    for one, admitted in there.items():
        held.closed(one, admitted=admitted)
    assert (len(held), held._clients) == (0, {})


class Play:
    """What the rules say, word for word, beside what happens."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)  # noqa: S311 - a play, to be played again
        self.most = self.chance.randint(2, 24)
        self.limit = limit(self.most)
        self.peers = [f"192.0.2.{number}" for number in range(self.chance.randint(2, 20))]
        self.open: dict[Connection, bool] = {}  # the oldest first; whether it authenticated
        self.refused = 0

    def expected(self, new: Connection) -> Connection | None:
        """Which one goes: the new one only where all that could go are known."""
        mine = [one for one in self.open if one.peer == new.peer]
        if new.peer != BALANCER and len(mine) >= max(1, self.most // 2):
            return self._first(mine) or new
        return self._first(list(self.open)) or new if len(self.open) >= self.most else None

    def _first(self, held: list[Connection]) -> Connection | None:
        strangers = [one for one in held if not self.open[one]]
        idle = [one for one in strangers[:LOOKED_AT] if one.idle]
        return next(iter(idle or strangers), None)

    def step(self) -> None:
        what = self.chance.random()
        if what < 0.6 or not self.open:
            peer = (
                self.peers[0] if self.chance.random() < 0.5 else self.chance.choice([*self.peers, BALANCER])
            )
            new = Connection(peer, idle=self.chance.random() < 0.7)
            goes, expected = self.limit.opened(new), self.expected(new)
            assert goes is expected
            if expected is not None:
                self.open.pop(expected, None)
                self.refused += expected is new
            if expected is not new:
                self.open[new] = False
        elif what < 0.8:
            one = self.chance.choice(list(self.open))
            self.open[one] = True
            self.limit.admitted(one)
        else:
            one = self.chance.choice(list(self.open))
            self.limit.closed(one, admitted=self.open.pop(one))
        assert len(self.limit) == len(self.open) <= self.most
        for peer in self.peers:
            assert sum(one.peer == peer for one in self.open) <= max(1, self.most // 2), "above the share"


def test_connections_are_shared_in_a_thousand_plays() -> None:
    """Two to twenty clients, one of whom opens as many as all others together, and a load balancer.

    Nothing is idle: none goes while there is room for all and in its share. Nobody starves: who comes
    is let in at once, unless all that could go for them have authenticated.
    """
    refused = 0
    for seed in range(PLAYS):
        play = Play(seed)
        for _ in range(60):
            play.step()
        refused += play.refused
    assert refused > PLAYS
