"""Who makes room for whom, and who does not."""

from typing import Any

import pytest

from hubgate.backend.engines.engine import Engine
from hubgate.backend.engines.scheduler import EngineScheduler, LoadReport
from hubgate.backend.plugin.traffic import ModelUse, Status
from hubgate.backend.settings import Engines
from hubgate.wire.repo import RepoRef
from tests.fakes.clock import Clock

ONE, TWO, THREE, NEW = (RepoRef.parse(f"demo/{name}@{'a' * 40}") for name in ("one", "two", "three", "new"))


class Client:
    """An engine's own word of its traffic."""

    def __init__(self, idle: float) -> None:
        self.idle = idle

    async def status(self) -> Status:
        uses = {"x": ModelUse(in_flight=0, idle=self.idle)}
        return Status(draining=False, in_flight=0, models=uses)


class House:
    """Engines that do at once what they are asked to, and the scheduler that looks at them."""

    def __init__(self, *, running: int, asleep: int = 0) -> None:
        self.clock = Clock()
        self.engines: list[Engine] = []
        self.preloaded: dict[str, RepoRef | None] = {}
        config = Engines(max_running=running, max_asleep=asleep, on_demand=("demo/*",))
        slots = tuple(() for _ in range(running))
        self.scheduler = EngineScheduler(config, slots, self.preloaded, self.live, self.clock)

    def live(self) -> list[Engine]:
        return [engine for engine in self.engines if not engine.ended.is_set()]

    def engine(self, base: RepoRef, slot: int, idle: float) -> Engine:
        """One that is ready."""
        client: Any = Client(idle)
        place = self.scheduler.place(slot)
        made = _Prompt(f"x/{place}", "boot", slot, place, place, base, client, "somebody", 1, 1, self.clock)
        made.state, made.ready_since = "ready", self.clock() - 1000
        self.engines.append(made)
        return made

    async def free_slot(self, base: RepoRef, *fit: int) -> tuple[int | None, list[str]]:
        """The slot, and whom it was taken from."""
        report = LoadReport("somebody")
        slot = await self.scheduler.free_slot(base, fit, report)
        return slot, [gone.repo.partition("@")[0] for gone in report.evicted]


class _Prompt(Engine):
    def stop(self, why: Any) -> None:
        super().stop(why)
        self.conclude()

    def sleep(self, last_used: float) -> None:
        super().sleep(last_used)
        self.state = "asleep"
        self.vacated.set()


async def test_the_engine_that_is_idle_for_longest_leaves() -> None:
    """Of those in slots that fit."""
    house = House(running=3)
    for slot, (base, idle) in enumerate(((ONE, 20.0), (TWO, 30.0), (THREE, 40.0))):
        house.engine(base, slot, idle)
    assert await house.free_slot(NEW, 0, 1) == (1, ["demo/two"])


async def test_an_engine_that_is_given_an_adapter_is_not_idle() -> None:
    """Whoever has it loaded is about to use it."""
    house = House(running=1, asleep=1)
    engine = house.engine(ONE, 0, 100)
    async with engine.adapters_lock:
        assert await house.free_slot(NEW, 0) == (None, [])
    assert await house.free_slot(NEW, 0) == (0, ["demo/one"])
    assert engine.is_asleep


@pytest.mark.parametrize("asked", ["stop", "sleep"])
async def test_an_engine_that_leaves_already_is_not_asked_again(asked: str) -> None:
    """Its slot is for whoever it leaves."""
    house = House(running=1)
    engine = house.engine(ONE, 0, 100)
    (engine.stop_asked if asked == "stop" else engine.sleep_asked).set()
    assert await house.free_slot(NEW, 0) == (None, [])


async def test_sleepers_are_as_many_as_may_be() -> None:
    """Before one more lies down, whichever was used before all others ends; the one that wakes up stays."""
    house = House(running=1, asleep=2)
    for base, idle in ((ONE, 300.0), (TWO, 200.0), (THREE, 100.0)):
        await house.free_slot(base, 0)
        house.engine(base, 0, idle)
    assert {engine.base: engine.state for engine in house.live()} == {
        ONE: "asleep", TWO: "asleep", THREE: "ready",
    }  # fmt: skip
    assert await house.free_slot(ONE, 0) == (0, ["demo/three"]), "it sleeps itself, so there is a bed"
    assert await house.free_slot(NEW, 0) == (0, ["demo/one"]), "its waker has left, so there are three"


async def test_sleepers_are_in_nobodys_way() -> None:
    """Neither for a slot, nor while one of them ends, nor for a preloaded model's reserved one."""
    house = House(running=2, asleep=1)
    sleeper = house.engine(ONE, 0, 0)
    sleeper.sleep(0)
    house.engine(TWO, 1, 0)
    assert await house.free_slot(NEW, 0, 1) == (0, [])
    sleeper.state = "stopping"
    assert await house.free_slot(NEW, 0, 1) == (0, [])
    house.preloaded["demo/one"] = ONE
    house.engines.pop()
    assert await house.free_slot(NEW, 0, 1) == (0, [])
    house.engine(THREE, 0, 0)
    assert (await house.free_slot(NEW, 1))[0] is None, "it is kept for the preloaded one, which is asleep"


def test_places_are_the_slots_own_where_they_are_free() -> None:
    """So that without sleep an engine's port tells its devices; never one that another has."""
    house = House(running=2, asleep=1)
    seen = [house.engine(base, slot, 0).place for base, slot in ((ONE, 1), (TWO, 1), (THREE, 0))]
    assert seen == [1, 0, 2]
