"""A few hundred random steps: callers, kills, refreshes and failures, with engines that are no processes.

What must hold at every step is looked at by the engines themselves, when they start, sleep and wake up.
"""

import asyncio
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hubgate.backend.engines.client import EngineError
from hubgate.backend.engines.engine import Engine
from hubgate.backend.engines.gpus import Turns
from hubgate.backend.engines.scheduler import LoadReport
from hubgate.backend.engines.supervisor import Supervisor
from hubgate.backend.metrics import Metrics
from hubgate.backend.plugin.traffic import ModelUse, Status
from hubgate.backend.settings import Engines
from hubgate.wire.control_api import LoadFailed
from hubgate.wire.repo import RepoRef
from tests.fakes.clock import Clock

BASES = [RepoRef.parse(f"demo/base-{name}@{name * 40}") for name in "abcde"]
STEPS = 300


@dataclass
class World:
    """What the engines hold: memory awake or asleep, places, and the store's files."""

    dice: random.Random
    clock: Clock
    running: int
    asleep: int
    flaky: float = 0.0  # how often something fails that may
    live: "dict[int, Process]" = field(default_factory=dict)  # by place
    held: list[RepoRef] = field(default_factory=list)
    woken: int = 0

    def check(self) -> None:
        """One awake in a slot, no more processes than places, all bases held."""
        slots = [process.engine.slot for process in self.live.values() if process.awake]
        assert len(slots) == len(set(slots)), "two engines are awake in one slot"
        assert set(slots) <= set(range(self.running))
        assert set(self.live) <= set(range(self.running + self.asleep))
        assert all(process.engine.base in self.held for process in self.live.values())

    def fails(self) -> bool:
        return self.dice.random() < self.flaky

    def hold(self, base: RepoRef) -> Path:
        self.held.append(base)
        return Path("/nowhere")

    def release(self, base: RepoRef) -> None:
        self.held.remove(base)

    def engine(self, base: RepoRef, slot: int, place: int, asked_by: str) -> Engine:
        client: Any = Process(self)
        made = Engine(
            f"x/{place}", "boot", slot, place, place, base, client, asked_by, 60, 60, clock=self.clock
        )
        client.engine = made
        return made

    async def start(self, engine: Engine, _: Path) -> "Process":
        process: Any = engine.client
        assert engine.place not in self.live, "two engines have one port"
        self.live[engine.place] = process
        process.awake = True
        self.check()
        return process  # type: ignore[no-any-return]


class Process:
    """An engine's process, and the client that asks it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.engine: Engine
        self.awake = False
        self.busy = 0
        self.uses: dict[str, ModelUse] = {}
        self.exited = asyncio.Event()
        self.stdout = asyncio.StreamReader()
        self.stdout.feed_eof()

    async def wait(self) -> int:
        await self.exited.wait()
        return 137

    async def end(self, _grace: float) -> None:
        await self._pause()
        self.exited.set()
        del self.world.live[self.engine.place]

    async def is_healthy(self) -> bool:
        await self._pause()
        return True

    async def generate(self, *_: object) -> None:
        await self._answers()
        if not self.awake or self.world.fails():
            raise EngineError("no token")

    async def status(self) -> Status:
        await self._answers()
        return Status(draining=False, in_flight=self.busy, models=self.uses)

    async def drain(self) -> Status:
        return await self.status()

    async def sleep(self) -> None:
        await self._answers()
        if self.busy or self.world.fails():
            raise EngineError("it does not sleep")
        self.awake = False

    async def wake(self) -> None:
        await self._answers()
        if self.world.fails():
            raise EngineError("it does not wake up")
        assert not self.awake
        self.awake = True
        self.world.woken += 1
        self.world.check()

    async def _answers(self) -> None:
        await self._pause()
        if self.exited.is_set():
            raise EngineError("gone")

    async def _pause(self) -> None:
        for _ in range(self.world.dice.randrange(4)):
            await asyncio.sleep(0)


class Callers:
    """Ask for bases, use them for a while, and sometimes leave."""

    def __init__(self, world: World, supervisor: Supervisor) -> None:
        self.world = world
        self.supervisor = supervisor
        self.tasks: list[asyncio.Task[str]] = []

    async def call(self, base: RepoRef) -> str:
        done = await self.supervisor.ready(base, LoadReport("somebody"))
        if isinstance(done, LoadFailed):
            return done.code
        assert done.base == base
        process: Any = done.client
        if not done.is_up or process.exited.is_set():
            return "gone again"  # as a proxy would be told by the gate
        assert process.awake
        process.busy += 1
        try:
            await process._pause()
        finally:
            process.busy -= 1
        return "answered"

    async def step(self) -> None:
        """One thing happens."""
        dice, world = self.world.dice, self.world
        match dice.choices(("call", "leave", "kill", "refresh", "time"), (10, 1, 1, 1, 4))[0]:
            case "call":
                favourite = min(dice.choice(BASES), dice.choice(BASES), dice.choice(BASES), key=str)
                self.tasks.append(asyncio.create_task(self.call(favourite)))
            case "leave" if self.tasks:
                dice.choice(self.tasks).cancel()
            case "kill" if world.live:
                dice.choice(list(world.live.values())).exited.set()
            case "refresh":
                await self.supervisor.end(dice.choice(BASES), "refresh")
            case _:
                world.clock.advance(5)
        for _ in range(dice.randrange(12)):
            await asyncio.sleep(0)
        world.check()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hubgate.backend.engines.lifecycle.POLL", 0)
    monkeypatch.setattr("hubgate.backend.engines.line.POLL", 0)


async def _swap(world: World, config: Engines) -> list[str]:
    """What came of all calls; afterwards nothing is left."""
    fake: Any = world
    turns = Turns(None, tuple(() for _ in range(world.running)), world.clock)
    supervisor = Supervisor(config, fake, fake, Metrics(), turns=turns, clock=world.clock)
    callers = Callers(world, supervisor)
    for _ in range(STEPS):
        await callers.step()
    async with asyncio.timeout(10):
        while any(not task.done() for task in callers.tasks):
            world.clock.advance(1)  # an engine that never grows old makes no room
            await asyncio.sleep(0)
        outcomes = await asyncio.gather(*callers.tasks, return_exceptions=True)
    said = [one for one in outcomes if isinstance(one, str)]
    others = [one for one in outcomes if not isinstance(one, str)]
    assert all(isinstance(one, asyncio.CancelledError) for one in others), others
    world.flaky = 0
    world.clock.advance(1000)
    for base in BASES:  # no slot is lost
        assert await _until_served(callers, base)
    await supervisor.close()
    assert not world.live
    assert not world.held
    return said


async def _until_served(callers: Callers, base: RepoRef) -> bool:
    for _ in range(20):
        callers.world.clock.advance(1)
        for _ in range(20):
            await asyncio.sleep(0)
        if await callers.call(base) == "answered":
            return True
    return False


@pytest.mark.parametrize(("running", "asleep"), [(1, 1), (2, 1), (2, 3), (1, 0)])
async def test_whatever_happens_slots_and_ports_are_used_by_one(running: int, asleep: int) -> None:
    """Nobody waits for ever, no engine or file is left over, and every base can be had at the end."""
    woken = 0
    for seed in range(6):
        world = World(random.Random(seed), Clock(), running, asleep, flaky=0.02 * (seed % 3))  # noqa: S311
        config = Engines(
            max_running=running,
            max_asleep=asleep,
            on_demand=("demo/*",),
            min_residency=0.000001,
        )
        said = await _swap(world, config)
        assert said.count("answered") > STEPS / 10, f"seed {seed}"
        woken += world.woken
    assert bool(woken) == bool(asleep)  # some seed wakes a sleeper, which ones depends on asyncio's order
