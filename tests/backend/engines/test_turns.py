"""Whose base model the GPU has: nobody holds it for ever, and nobody loses it to a mere wish."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from hubgate.backend.engines.engine import Engine
from hubgate.backend.engines.gpus import Turns
from hubgate.backend.engines.scheduler import LoadReport
from hubgate.backend.engines.supervisor import Supervisor
from hubgate.backend.metrics import Metrics
from hubgate.backend.plugin.traffic import ModelUse
from hubgate.backend.settings import Engines
from hubgate.wire.control_api import LoadFailed
from hubgate.wire.repo import RepoRef
from tests.backend.engines.test_swaps_at_random import BASES, Process, World
from tests.fakes.clock import Clock

ONE, TWO, THREE, FOUR, FIVE = BASES
CONFIG = Engines(max_running=1, on_demand=("demo/*",), min_residency=60, max_tenure=600, tenure_grace=60)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hubgate.backend.engines.lifecycle.POLL", 0)
    monkeypatch.setattr("hubgate.backend.engines.line.POLL", 0)


class Gpu:
    """One GPU, and callers by name."""

    def __init__(self) -> None:
        self.world = World(random.Random(0), Clock(), 1, 0)  # noqa: S311
        turns = Turns(None, ((),), self.world.clock)
        fake: Any = self.world
        self.metrics = Metrics()
        self.supervisor = Supervisor(CONFIG, fake, fake, self.metrics, turns=turns, clock=self.world.clock)
        self.tasks: list[asyncio.Task[Engine | LoadFailed]] = []

    def ask(self, who: str, base: RepoRef, *, left: bool = False) -> LoadReport:
        """A load begins to wait."""
        report = LoadReport(who, is_present=lambda: not left)
        self.tasks.append(asyncio.create_task(self.supervisor.ready(base, report)))
        return report

    async def have(self, who: str, base: RepoRef, busy: int = 0) -> Process:
        """A load that is served at once, and what its caller then does."""
        self.ask(who, base)
        await self.pass_time(0)
        assert self.running() == [base]
        process: Any = self.supervisor.engines()[0].client
        process.busy = busy
        return process  # type: ignore[no-any-return]

    async def pass_time(self, seconds: int) -> None:
        """Second by second, with time enough for everybody in each."""
        for second in range(seconds + 1):
            self.world.clock.advance(1 if second else 0)
            for _ in range(60):
                await asyncio.sleep(0)

    def running(self) -> list[RepoRef]:
        return [engine.base for engine in self.supervisor.engines()]

    def states(self) -> list[str]:
        return [engine.state for engine in self.supervisor.engines()]


@pytest.fixture
async def gpu() -> AsyncIterator[Gpu]:
    made = Gpu()
    yield made
    for task in made.tasks:
        task.cancel()
    await asyncio.gather(*made.tasks, return_exceptions=True)
    await made.supervisor.close()
    assert not made.world.held


async def test_an_open_stream_does_not_keep_another_base_out(gpu: Gpu) -> None:
    """After `max_tenure` nothing new comes in, after `tenure_grace` it ends; who waits is told so."""
    await gpu.have("alice", ONE, busy=1)
    waiting = gpu.ask("bob", TWO)
    await gpu.pass_time(598)
    assert (gpu.running(), gpu.states(), waiting.position()) == ([ONE], ["ready"], 1)
    await gpu.pass_time(5)
    assert (gpu.running(), gpu.states()) == ([ONE], ["draining"])
    await gpu.pass_time(65)
    assert (gpu.running(), gpu.states(), waiting.position()) == ([TWO], ["ready"], None)
    text = gpu.metrics.render({}).decode()
    assert 'hubgate_engine_ends_total{reason="tenure"} 1.0' in text
    assert 'hubgate_evictions_total{what="engine",why="turn"} 1.0' in text
    assert [gone.repo for gone in waiting.evicted] == [str(ONE)]


async def test_a_stream_that_ends_is_waited_for(gpu: Gpu) -> None:
    """The engine leaves as soon as what it was answering has ended."""
    process = await gpu.have("alice", ONE, busy=1)
    gpu.ask("bob", TWO)
    await gpu.pass_time(605)
    assert gpu.states() == ["draining"]
    process.busy = 0
    await gpu.pass_time(1)
    assert gpu.running() == [TWO]


async def test_nobody_waits_so_nobody_leaves(gpu: Gpu) -> None:
    """However long it has been there, in use or not: a load that its caller has left ends nobody's engine."""
    process = await gpu.have("alice", ONE, busy=1)
    gpu.ask("bob", TWO, left=True)
    await gpu.pass_time(700)
    assert (gpu.running(), gpu.states()) == ([ONE], ["ready"])
    process.busy = 0
    await gpu.pass_time(70)
    assert (gpu.running(), gpu.states()) == ([ONE], ["ready"])


async def test_a_request_now_and_then_does_not_end_anothers_engine(gpu: Gpu) -> None:
    """It is in use as long as its users come back within `min_residency`; until its tenure is over."""
    process = await gpu.have("alice", ONE)
    gpu.ask("bob", TWO)
    for _ in range(11):
        process.uses = {"x": ModelUse(in_flight=0, idle=5, users={"alice": 5})}
        await gpu.pass_time(50)
        assert gpu.running() == [ONE]
    process.uses = {"x": ModelUse(in_flight=0, idle=61, users={"alice": 61})}
    await gpu.pass_time(1)
    assert gpu.running() == [TWO]


async def test_ones_own_engine_leaves_at_once(gpu: Gpu) -> None:
    """Who alone uses it may have another model in its place, once it has run for `min_residency`."""
    process = await gpu.have("alice", ONE)
    process.uses = {"x": ModelUse(in_flight=0, idle=1, users={"alice": 1})}
    gpu.ask("alice", TWO)
    await gpu.pass_time(58)
    assert gpu.running() == [ONE]
    await gpu.pass_time(3)
    assert gpu.running() == [TWO]


async def test_one_caller_has_less_time_than_many_who_wait(gpu: Gpu) -> None:
    """Three wait for what one holds with a stream: a third of the tenure."""
    await gpu.have("alice", ONE, busy=1)
    for who in ("bob", "carol", "dave"):
        gpu.ask(who, TWO)
    await gpu.pass_time(198)
    assert gpu.states() == ["ready"]
    await gpu.pass_time(5)
    assert gpu.states() == ["draining"]


async def test_who_comes_back_to_what_left_waits_behind_those_it_left_for(gpu: Gpu) -> None:
    """Its callers ask for it again in the moment in which it is closed."""
    await gpu.have("alice", ONE, busy=1)
    gpu.ask("bob", TWO)
    await gpu.pass_time(605)
    gpu.ask("alice", ONE)
    await gpu.pass_time(60)
    assert gpu.running() == [TWO]


async def test_turns_are_fair_whoever_wants_how_many(gpu: Gpu) -> None:
    """One caller asks for three models, then another for one: it is the second to be served."""
    order: list[RepoRef] = []
    for base in (ONE, TWO, THREE):
        gpu.ask("eve", base)
    gpu.ask("bob", FOUR)
    for _ in range(30):
        await gpu.pass_time(8)
        order += [base for base in gpu.running() if base not in order]
    assert order[:2] == [ONE, FOUR]
    assert set(order[2:]) <= {TWO, THREE}


async def test_where_no_slot_can_ever_be_had_nobody_waits(gpu: Gpu) -> None:
    """The only one is a preloaded model's."""
    gpu.supervisor.pin(ONE)
    await gpu.have("preload", ONE)
    gpu.ask("bob", TWO)
    await gpu.pass_time(0)
    failed = gpu.tasks[-1].result()
    assert isinstance(failed, LoadFailed)
    assert (failed.code, failed.retry_after) == ("no_capacity", 30)
