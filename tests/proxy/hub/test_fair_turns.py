"""Whose question to the Hub is next: shares of the turns, and some for who is new."""

import asyncio
import random
from collections import Counter

import pytest

from hubgate.proxy.hub.fair_turns import FairTurns, Turn

PLAYS = 1_000


class Asked:
    """One question, from its asking to its end."""

    def __init__(self, turns: FairTurns, who: str, *, walk: bool) -> None:
        self.who, self.walk = who, walk
        self.passed: Counter[str] = Counter()  # who began meanwhile in a turn that it could have had
        self._task = asyncio.create_task(turns.begin(who, walk=walk))

    @property
    def turn(self) -> Turn | None:
        return self._task.result() if self._task.done() else None

    async def leave(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


class Play:
    """What the rules say, beside what happens. Those who wait are looked through one by one."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)  # noqa: S311 - a play, to be played again
        self._at_once, self._reserve = self._chance.randint(1, 8), self._chance.randint(0, 4)
        self.turns = FairTurns(self._at_once, self._reserve)
        self._names = [f"caller-{number}" for number in range(self._chance.randint(2, 20))]
        self._greedy = self._chance.choice(self._names)
        self.waiting: list[Asked] = []
        self.under_way: list[Asked] = []
        self.begun = 0

    async def step(self) -> None:
        what = self._chance.random()
        if what < 0.55:
            who = self._greedy if self._chance.random() < 0.5 else self._chance.choice(self._names)
            before = self._count()
            self.waiting.append(Asked(self.turns, who, walk=self._chance.random() < 0.3))
            await self._settle(before)
        elif what < 0.6 and self.waiting:
            leaving = self.waiting.pop(self._chance.randrange(len(self.waiting)))
            before = self._count()
            await leaving.leave()
            await self._settle(before)
        elif self.under_way:
            ended = self.under_way.pop(self._chance.randrange(len(self.under_way)))
            before = self._count()
            assert ended.turn is not None
            self.turns.end(ended.turn)
            await self._settle(before)
        self._look()

    def _count(self) -> Counter[str]:
        return Counter(one.who for one in self.under_way)

    async def _settle(self, had: Counter[str]) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        begun = [one for one in self.waiting if one.turn is not None]
        self.waiting = [one for one in self.waiting if one.turn is None]
        for one in begun:
            self._began(one, had)
        self.under_way += begun
        self.begun += len(begun)

    def _began(self, one: Asked, had: Counter[str]) -> None:
        assert one.turn is not None
        if one.turn.reserved:
            assert not had[one.who]
            assert not one.walk
        else:
            assert all(had[one.who] <= had[other.who] for other in self.waiting), "nobody is above a share"
        heads = {other.who: other for other in reversed(self.waiting)}
        for other in heads.values():
            if not had[other.who] and other.who != one.who and not (other.walk and one.turn.reserved):
                other.passed[one.who] += 1
                assert other.passed[one.who] == 1, "each other one passes it once"
        for other in self.waiting:
            if had[other.who] or other.who == one.who:
                other.passed.clear()

    def _look(self) -> None:
        """Nothing is idle that somebody waits for."""
        reserved = sum(one.turn is not None and one.turn.reserved for one in self.under_way)
        had = self._count()
        assert len(self.under_way) - reserved <= self._at_once
        assert reserved <= self._reserve
        assert len(self.turns) == len(self.waiting)
        if self.waiting:
            assert len(self.under_way) - reserved == self._at_once
        heads = {one.who: one for one in reversed(self.waiting)}
        if any(not had[one.who] and not one.walk for one in heads.values()):
            assert reserved == self._reserve

    async def end(self) -> None:
        """Everybody has their turn."""
        while self.under_way or self.waiting:
            ended = self.under_way.pop(0)
            before = self._count()
            assert ended.turn is not None
            self.turns.end(ended.turn)
            await self._settle(before)
            self._look()
        assert not self.turns._under_way
        assert not self.turns._ranks
        assert (self.turns._free, self.turns._reserve) == (self._at_once, self._reserve)


async def test_everybody_has_a_share() -> None:
    """Nobody is above it while another waits, nothing is idle, and each other one is let past once."""
    begun = 0
    for seed in range(PLAYS):
        play = Play(seed)
        for _ in range(100):
            await play.step()
        await play.end()
        begun += play.begun
    assert begun > 40 * PLAYS


async def test_who_is_new_finds_a_turn() -> None:
    """Whatever one caller asks for at once, others begin at once; walks do not."""
    turns = FairTurns(4, 2)
    many = [asyncio.create_task(turns.begin("greedy")) for _ in range(100)]
    await asyncio.sleep(0)
    assert sum(task.done() for task in many) == 4
    assert (await turns.begin("new")).reserved
    walk = asyncio.create_task(turns.begin("walker", walk=True))
    second = asyncio.create_task(turns.begin("new"))
    await asyncio.sleep(0)
    assert not walk.done()
    assert not second.done()
    turns.end(await many[0])
    assert not (await walk).reserved  # before all that the greedy one has waiting
    for task in (*many, second):
        task.cancel()
    await asyncio.gather(*many, second, return_exceptions=True)


@pytest.mark.parametrize("granted", [False, True])
async def test_who_leaves_has_no_turn(*, granted: bool) -> None:
    """Neither while they wait, nor when they were called and did not hear it any more."""
    turns = FairTurns(1, 0)
    first = await turns.begin("a")
    waits = asyncio.create_task(turns.begin("b"))
    await asyncio.sleep(0)
    if granted:
        turns.end(first)
    waits.cancel()
    await asyncio.gather(waits, return_exceptions=True)
    assert waits.cancelled()
    if not granted:
        turns.end(first)
    assert not len(turns)
    assert not (await turns.begin("c")).reserved
