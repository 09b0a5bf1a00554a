"""The line of those who wait for an engine."""

import asyncio
import random
from collections.abc import Callable

import pytest

from hubgate.backend.engines.line import EngineLine, Waiting

PLAYS = 300


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hubgate.backend.engines.line.POLL", 0)


class Slots:
    """Some free slots, and all who try to get one, in their order."""

    def __init__(self) -> None:
        self.line = EngineLine()
        self.free = 0
        self.got: list[str] = []
        self.tried: list[str] = []
        self.joined: dict[str, Waiting] = {}
        self.tasks: list[asyncio.Task[None]] = []

    def come(self, caller: str, name: str = "", is_present: Callable[[], bool] = lambda: True) -> None:
        self.tasks.append(asyncio.create_task(self._wait(caller, name or caller, is_present)))

    async def _wait(self, caller: str, name: str, is_present: Callable[[], bool]) -> None:
        with self.line.joined(caller, is_present) as waiting:
            self.joined[name] = waiting
            while True:
                await self.line.turn(waiting)
                self.tried.append(name)
                waiting.wants = (0,)
                if self.free and not self.line.promised:
                    self.free -= 1
                    self.line.given(caller)
                    self.got.append(name)
                    return

    async def open(self, slots: int) -> None:
        """So many become free, and everybody tries."""
        self.free += slots
        await self.until(lambda: not self.free or len(self.got) == len(self.tasks))

    async def until(self, seen: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not seen():  # noqa: ASYNC110 - rounds go on and on, which is no event
                await asyncio.sleep(0)

    async def until_tried(self, times: int) -> None:
        await self.until(lambda: len(self.tried) >= times)

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def test_who_was_given_one_longest_ago_is_next() -> None:
    """However many wait of one caller, and whoever came first."""
    slots = Slots()
    for name in ("a1", "a2", "a3", "b1", "c1"):
        slots.come(name[0], name)
    await asyncio.sleep(0)
    places = [slots.line.position(waiting) for waiting in slots.joined.values()]
    assert places == [1, 4, 5, 2, 3]
    for _ in range(5):
        await slots.open(1)
    assert slots.got == ["a1", "b1", "c1", "a2", "a3"]
    slots.come("a", "a4")
    slots.come("b", "b2")
    await asyncio.sleep(0)
    await slots.open(2)
    assert slots.got[5:] == ["b2", "a4"]


async def test_everybody_tries_in_each_round() -> None:
    """What one of them cannot have, another may: they want engines of different sizes."""
    slots = Slots()
    for name in "abc":
        slots.come(name)
    await slots.until_tried(10)
    rounds = ["".join(slots.tried[start : start + 3]) for start in (1, 4, 7)]
    assert rounds == ["abc"] * 3, slots.tried
    await slots.close()


async def test_who_left_comes_last() -> None:
    """And counts for nobody who waits."""
    slots = Slots()
    slots.come("a", "left", lambda: False)
    slots.come("b")
    await asyncio.sleep(0)
    assert slots.line.callers() == {"b"}
    await slots.open(2)
    assert slots.got == ["b", "left"]


async def test_who_is_cancelled_holds_nobody_up() -> None:
    """Before its turn, or in the moment of it."""
    slots = Slots()
    for name in "abc":
        slots.come(name)
    await asyncio.sleep(0)
    slots.tasks[0].cancel()
    slots.tasks[1].cancel()
    await slots.open(1)
    assert slots.got == ["c"]
    slots.come("d")
    await slots.open(1)
    assert slots.got == ["c", "d"]


async def test_nobody_starves_in_random_plays() -> None:
    """Of callers who wait, whoever was given one longest ago is the next to be given one."""
    for seed in range(PLAYS):
        dice = random.Random(seed)  # noqa: S311
        names = [f"caller-{number}" for number in range(dice.randint(2, 20))]
        slots, given = Slots(), dict.fromkeys(names, 0)
        waiting: dict[str, int] = dict.fromkeys(names, 0)
        for step in range(1, 15):
            for number in range(dice.randint(0, 4)):
                who = names[0] if dice.random() < 0.5 else dice.choice(names)
                slots.come(who, f"{who}/{step}/{number}")
                waiting[who] += 1
            await asyncio.sleep(0)
            if not any(waiting.values()):
                continue
            tried = len(slots.tried)
            await slots.until_tried(tried + 2 * sum(waiting.values()))
            await slots.open(1)
            who = slots.got[-1].split("/")[0]
            assert given[who] == min(given[name] for name in names if waiting[name]), seed
            given[who], waiting[who] = step, waiting[who] - 1
        await slots.close()
