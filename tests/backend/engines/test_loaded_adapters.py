"""Which adapters an engine holds: each step in its order, with a recorder in the place of the engine."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hubgate.backend.engines.client import EngineError, SilentEngineError
from hubgate.backend.engines.engine import AdapterUse
from hubgate.backend.engines.loaded_adapters import AGAIN, Loaded, LoadedAdapters
from hubgate.backend.engines.scheduler import LoadReport
from hubgate.backend.metrics import Metrics
from hubgate.backend.plugin.traffic import ModelUse, Status
from hubgate.backend.store.store import Store
from hubgate.wire.control_api import Evicted, LoadFailed
from hubgate.wire.repo import RepoRef
from tests.fakes.clock import Clock

ADAPTERS = [RepoRef.parse(f"alice/lora-{number}@{str(number) * 40}") for number in range(4)]
NAMES = [str(adapter) for adapter in ADAPTERS]


class Recorder:
    """An engine as far as `LoadedAdapters` knows one, and everything that it was asked for, in order."""

    def __init__(self) -> None:
        self.id = "gpu-0/0"
        self.client = self
        self.state = "ready"
        self.adapters: dict[str, RepoRef] = {}
        self.adapter_uses: dict[str, AdapterUse] = {}
        self.promised = 0
        self.adapters_lock = asyncio.Lock()
        self.ended = asyncio.Event()
        self.said: list[str] = []
        self.uses: dict[str, ModelUse] = {}
        self.fails: set[str] = set()
        self.failure: type[EngineError] = EngineError
        self.may_unload = asyncio.Event()
        self.may_unload.set()
        self.during: Callable[[], object] = lambda: None

    async def load(self, name: str, path: Path) -> bool:
        assert path.is_absolute()
        await self._do(f"load {name}")
        return True

    async def unload(self, name: str) -> None:
        await self.may_unload.wait()
        await self._do(f"unload {name}")

    async def status(self) -> Status:
        return Status(draining=False, in_flight=0, models=self.uses)

    async def _do(self, what: str) -> None:
        self.said.append(what)
        self.during()
        if what.partition(" ")[0] in self.fails:
            raise self.failure("it does not")


class Room:
    """A store with four adapters, and an engine with room for two."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder / "store", 4000, Clock())
        self.store.open()
        for adapter in ADAPTERS:
            with self.store.staging() as staging:
                content = staging.path / "content"
                content.mkdir()
                (content / "adapter_model.safetensors").write_bytes(bytes(1000))
                self.store.publish(staging, content, adapter)
        self.engine = Recorder()
        self.clock = Clock()
        self.loaded_adapters = LoadedAdapters(self.store, Metrics(), 2, 600, self.clock)

    async def load(self, number: int, report: LoadReport | None = None) -> Loaded | LoadFailed:
        engine: Any = self.engine
        return await self.loaded_adapters.load(engine, ADAPTERS[number], report or LoadReport("somebody"))

    def used(self, number: int, *who: str, idle: float = 0.0, in_flight: int = 0) -> None:
        """The engine has seen requests of these callers for an adapter."""
        users = dict.fromkeys(who, idle)
        self.engine.uses[NAMES[number]] = ModelUse(in_flight=in_flight, idle=idle, users=users)

    async def until(self, seen: Callable[[], bool]) -> None:
        """Let the others go on."""
        async with asyncio.timeout(5):
            while not seen():  # noqa: ASYNC110 - a place that is free is no event
                await asyncio.sleep(0)

    def may_go(self, number: int) -> bool:
        """Whether the files of an adapter could make room in the store now."""
        return self.store._entries[ADAPTERS[number]].holders == 0


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


async def test_the_longest_idle_makes_room_and_is_told(room: Room) -> None:
    """Its files may go only after the engine has let go of it; the other's stay."""
    await room.load(0)
    await room.load(1)
    room.engine.uses = {NAMES[0]: ModelUse(in_flight=0, idle=5), NAMES[1]: ModelUse(in_flight=0, idle=9)}
    held: list[bool] = []
    room.engine.during = lambda: held.append(not room.may_go(1))
    report = LoadReport("somebody")
    assert await room.load(2, report) == Loaded(fresh=True)
    assert room.engine.said[2:] == [f"unload {NAMES[1]}", f"load {NAMES[2]}"]
    assert held[0]
    assert [room.may_go(number) for number in range(3)] == [False, True, False]
    assert set(room.engine.adapters) == {NAMES[0], NAMES[2]}
    assert report.evicted == [Evicted(repo=NAMES[1], kind="adapter")]


async def test_an_adapter_with_requests_in_flight_never_makes_room(room: Room) -> None:
    """Not even if it was idle for longer on the whole."""
    await room.load(0)
    await room.load(1)
    room.engine.uses = {NAMES[0]: ModelUse(in_flight=1, idle=0), NAMES[1]: ModelUse(in_flight=0, idle=0.1)}
    assert await room.load(2) == Loaded(fresh=True)
    assert f"unload {NAMES[1]}" in room.engine.said
    room.engine.uses = {name: ModelUse(in_flight=1, idle=0) for name in NAMES}
    failed = await room.load(3)
    assert isinstance(failed, LoadFailed)
    assert (failed.code, failed.retry_after) == ("no_capacity", 10)
    assert len(room.engine.said) == 4


async def test_an_adapter_that_could_not_be_unloaded_stays_whole(room: Room) -> None:
    """Its name, its files and its place; whoever wanted the place comes again."""
    await room.load(0)
    await room.load(1)
    room.engine.uses = {NAMES[0]: ModelUse(in_flight=0, idle=5), NAMES[1]: ModelUse(in_flight=0, idle=1)}
    room.engine.fails = {"unload"}
    assert isinstance(await room.load(2), LoadFailed)
    assert set(room.engine.adapters) == set(NAMES[:2])
    assert not room.may_go(0)
    assert room.may_go(2)


async def test_an_adapter_that_could_not_be_loaded_holds_nothing(room: Room) -> None:
    """The next caller tries anew."""
    room.engine.fails = {"load"}
    assert isinstance(await room.load(0), LoadFailed)
    assert room.may_go(0)
    room.engine.fails = set()
    assert await room.load(0) == Loaded(fresh=True)
    assert await room.load(0) == Loaded(fresh=False)
    assert room.engine.said == [f"load {NAMES[0]}"] * 2


async def test_an_engine_that_ended_meanwhile_leaves_no_hold(room: Room) -> None:
    """Nobody would ever release it."""
    room.engine.during = room.engine.ended.set
    failed = await room.load(0)
    assert isinstance(failed, LoadFailed)
    assert failed.retry_after
    assert room.may_go(0)


async def test_loads_into_one_engine_are_one_after_the_other(room: Room) -> None:
    """Else two of them could take the same last place."""
    room.engine.uses = {name: ModelUse(in_flight=0, idle=number) for number, name in enumerate(NAMES)}
    outcomes = await asyncio.gather(*(room.load(number) for number in range(4)))
    assert outcomes == [Loaded(fresh=True)] * 4
    assert len(room.engine.adapters) == 2
    assert sum(line.startswith("unload") for line in room.engine.said) == 2


async def test_an_engine_that_fell_silent_may_be_asked_again(room: Room) -> None:
    """It will be started anew; one that refused the adapter would only refuse it again."""
    room.engine.fails = {"load"}
    refused = await room.load(0)
    room.engine.failure = SilentEngineError
    silent = await room.load(0)
    assert isinstance(refused, LoadFailed)
    assert isinstance(silent, LoadFailed)
    assert (refused.retry_after, silent.retry_after) == (None, AGAIN)


@pytest.mark.parametrize("state", ["draining", "asleep", "starting"])
async def test_an_engine_that_made_room_meanwhile_gets_no_adapter(room: Room, state: str) -> None:
    """Its caller is told to come again, and nothing is held for it."""
    room.engine.state = state
    failed = await room.load(0)
    assert isinstance(failed, LoadFailed)
    assert (failed.code, failed.retry_after) == ("no_capacity", AGAIN)
    assert room.engine.said == []
    assert room.may_go(0)


async def test_who_has_more_than_their_share_makes_room(room: Room) -> None:
    """For somebody who has nothing, although both were used a moment ago; then whoever causes it pays."""
    for number in range(2):
        await room.load(number, LoadReport("a"))
        room.used(number, "a", idle=1 + number)
    assert await room.load(2, LoadReport("b")) == Loaded(fresh=True)
    assert set(room.engine.adapters) == {NAMES[0], NAMES[2]}
    room.used(2, "b", idle=3)
    assert await room.load(3, LoadReport("b")) == Loaded(fresh=True)
    assert set(room.engine.adapters) == {NAMES[0], NAMES[3]}
    assert await room.load(1, LoadReport("a")) == Loaded(fresh=True)
    assert set(room.engine.adapters) == {NAMES[1], NAMES[3]}


async def test_an_adapter_is_its_users_and_not_only_its_loaders(room: Room) -> None:
    """Whoever had it loaded: it is those who use it that would miss it."""
    await room.load(0, LoadReport("a"))
    await room.load(1, LoadReport("a"))
    room.clock.advance(700)
    room.used(0, "b", idle=9)
    room.used(1, "a", idle=1)
    assert await room.load(2, LoadReport("a")) == Loaded(fresh=True)
    assert set(room.engine.adapters) == {NAMES[0], NAMES[2]}


async def test_who_asks_for_it_anew_uses_it(room: Room) -> None:
    """A load of what is there is a use as well."""
    await room.load(0, LoadReport("a"))
    await room.load(1, LoadReport("b"))
    room.clock.advance(700)
    assert await room.load(0, LoadReport("a")) == Loaded(fresh=False)
    room.engine.uses = {name: ModelUse(in_flight=0, idle=700) for name in NAMES[:2]}
    assert await room.load(2, LoadReport("c")) == Loaded(fresh=True)
    assert set(room.engine.adapters) == {NAMES[0], NAMES[2]}


async def test_a_refusal_says_whose_share_is_used_up(room: Room) -> None:
    """And when somebody else's could be had, if they do not use it again."""
    await room.load(0, LoadReport("a"))
    await room.load(1, LoadReport("b"))
    room.clock.advance(500)
    room.used(0, "a", in_flight=1)
    room.used(1, "b", idle=500)
    failed = await room.load(2, LoadReport("a"))
    assert isinstance(failed, LoadFailed)
    assert failed.message.endswith(": your share of the places for adapters is used, and others use theirs")
    assert (failed.code, failed.retry_after) == ("no_capacity", 100)


async def test_where_all_are_in_use_one_of_whoever_has_most_is_waited_for(room: Room) -> None:
    """It is closed meanwhile: no proxy is told of it, and who wants it back is not let in before."""
    for number in range(2):
        await room.load(number, LoadReport("a"))
        room.used(number, "a", in_flight=2 - number)
    room.engine.may_unload.clear()
    waiting = asyncio.create_task(room.load(2, LoadReport("b")))
    await room.until(lambda: room.engine.promised == 1)
    assert [name for name, use in room.engine.adapter_uses.items() if use.leaves] == [NAMES[1]]
    refused = await room.load(1, LoadReport("a"))
    assert isinstance(refused, LoadFailed)
    assert "your share" in refused.message
    assert await room.load(0, LoadReport("a")) == Loaded(fresh=False), "others are not held up"
    room.engine.may_unload.set()
    assert await waiting == Loaded(fresh=True)
    assert set(room.engine.adapters) == {NAMES[0], NAMES[2]}
    assert [room.may_go(number) for number in range(3)] == [False, True, False]
    assert not room.engine.promised


async def test_what_does_not_end_is_waited_for_once(room: Room) -> None:
    """It stays whole; the next time another one is tried."""
    for number in range(2):
        await room.load(number, LoadReport("a"))
        room.used(number, "a", in_flight=2 - number)
    room.engine.fails = {"unload"}
    failed = await room.load(2, LoadReport("b"))
    assert isinstance(failed, LoadFailed)
    assert (failed.code, failed.retry_after) == ("no_capacity", 10)
    assert set(room.engine.adapters) == set(NAMES[:2])
    assert not any(use.leaves for use in room.engine.adapter_uses.values())
    await room.load(2, LoadReport("b"))
    assert room.engine.said[2:] == [f"unload {NAMES[1]}", f"unload {NAMES[0]}"]


async def test_a_waiter_who_leaves_leaves_nothing_behind(room: Room) -> None:
    """What was begun goes to its end, and the place is anybody's."""
    for number in range(2):
        await room.load(number, LoadReport("a"))
        room.used(number, "a", in_flight=1)
    room.engine.may_unload.clear()
    waiting = asyncio.create_task(room.load(2, LoadReport("b")))
    await room.until(lambda: room.engine.promised == 1)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    room.engine.may_unload.set()
    await room.until(lambda: len(room.engine.adapters) == 1)
    assert await room.load(3, LoadReport("c")) == Loaded(fresh=True)
    assert not room.engine.promised
