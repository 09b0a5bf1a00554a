"""Places for adapters in random plays: real bookkeeping of both sides, with an engine that is no process."""

import asyncio
import random
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from hubgate.backend.engines.client import EngineError
from hubgate.backend.engines.engine import AdapterUse
from hubgate.backend.engines.loaded_adapters import Loaded, LoadedAdapters
from hubgate.backend.engines.scheduler import LoadReport
from hubgate.backend.metrics import Metrics
from hubgate.backend.plugin.traffic import Status, Traffic
from hubgate.wire.control_api import LoadFailed
from hubgate.wire.repo import RepoRef
from tests.fakes.clock import Clock

PLAYS = 1000
DRAIN = 20.0  # as in the plugin
SHA = "a" * 40


class Engine:
    """Holds `places` adapters and counts its requests as the gate does."""

    def __init__(self, places: int, clock: Clock) -> None:
        self.id = "gpu-0/0"
        self.client = self
        self.state = "ready"
        self.places = places
        self.clock = clock
        self.traffic = Traffic(clock)
        self.loaded: set[str] = set()
        self.adapters: dict[str, RepoRef] = {}
        self.adapter_uses: dict[str, AdapterUse] = {}
        self.promised = 0
        self.adapters_lock = asyncio.Lock()
        self.ended = asyncio.Event()

    async def load(self, name: str, _: Path) -> bool:
        await asyncio.sleep(0)
        assert len(self.loaded) < self.places
        self.loaded.add(name)
        self.traffic.touch(name)
        return True

    async def unload(self, name: str) -> None:
        end = self.clock() + DRAIN
        with self.traffic.refusing(name):
            while self.traffic.in_flight(name):
                if self.clock() > end:
                    raise EngineError("requests for it are still in flight")
                await asyncio.sleep(0)
        self.loaded.remove(name)
        self.traffic.forget(name)

    async def status(self) -> Status:
        await asyncio.sleep(0)
        return self.traffic.status()


class Files:
    """What of the store is held."""

    def __init__(self) -> None:
        self.held: Counter[str] = Counter()

    def hold(self, ref: RepoRef) -> Path:
        self.held[str(ref)] += 1
        return Path("/nowhere")

    def release(self, ref: RepoRef) -> None:
        self.held[str(ref)] -= 1
        assert self.held[str(ref)] >= 0


class Place:
    """Callers who ask for adapters and stream from them."""

    def __init__(self, places: int) -> None:
        self.clock = Clock()
        self.engine = Engine(places, self.clock)
        self.files = Files()
        files: Any = self.files
        self.adapters = LoadedAdapters(files, Metrics(), places, 600, self.clock)
        self.streams: list[tuple[float, ExitStack]] = []
        self.tasks: list[asyncio.Task[Loaded | LoadFailed]] = []

    async def ask(self, who: str, name: str) -> Loaded | LoadFailed:
        """As a proxy does for a model that is cold there."""
        engine: Any = self.engine
        ref = RepoRef.parse(f"org/{name}@{SHA}")
        return await self.adapters.load(engine, ref, LoadReport(who))

    def stream(self, who: str, name: str, seconds: float) -> bool:
        """Whether it was warm, and so the stream begins."""
        model = f"org/{name}@{SHA}"
        if model not in self.engine.loaded or not self.engine.traffic.admits(model):
            return False
        held = ExitStack()
        held.enter_context(self.engine.traffic.request(model, who))
        self.streams.append((self.clock() + seconds, held))
        return True

    async def use(self, who: str, name: str, seconds: float = 1) -> bool:
        """A request as a caller makes it. Whether it found the adapter warm."""
        if self.stream(who, name, seconds):
            return True
        self.tasks.append(asyncio.create_task(self.ask(who, name)))
        await self.pause()
        self.stream(who, name, seconds)
        return False

    async def pause(self, seconds: float = 0) -> None:
        """Time passes, and streams end."""
        self.clock.advance(seconds)
        for end, held in [one for one in self.streams if one[0] <= self.clock()]:
            held.close()
            self.streams.remove((end, held))
        for _ in range(6):
            await asyncio.sleep(0)
        self.check()

    def check(self) -> None:
        """Both sides know the same, and the files of what is loaded are held."""
        assert len(self.engine.loaded) <= self.engine.places
        if all(task.done() for task in self.tasks):
            assert set(self.engine.adapters) == set(self.engine.adapter_uses) == self.engine.loaded
            assert {name for name, times in self.files.held.items() if times} == self.engine.loaded
            assert self.engine.promised == 0

    async def close(self) -> None:
        for _, held in self.streams:
            held.close()
        self.streams.clear()
        await asyncio.gather(*self.tasks)
        self.check()


class Silent:
    """A log of thousands of lines that nobody reads."""

    def __getattr__(self, _: str) -> Any:
        return lambda *_, **__: None


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hubgate.backend.engines.loaded_adapters.log", Silent())


async def test_whatever_happens_both_sides_agree() -> None:
    """Loads, streams of all lengths, waits and refusals: nothing is lost, and nothing is there twice."""
    refused = waited = 0
    for seed in range(PLAYS):
        dice = random.Random(seed)  # noqa: S311
        place = Place(dice.randint(1, 6))
        names = [f"caller-{number}" for number in range(dice.randint(2, 20))]
        for _ in range(25):
            who = names[0] if dice.random() < 0.5 else dice.choice(names)
            name = f"{who}-{dice.randint(0, 9 if who == names[0] else 2)}"
            await place.use(who, name, dice.choice((1, 30, 300)))
            waited += place.engine.promised
            await place.pause(dice.choice((0, 1, 20, 200)))
        await place.close()
        refused += sum(isinstance(task.result(), LoadFailed) for task in place.tasks)
    assert refused
    assert waited


async def test_streams_on_all_places_keep_nobody_out() -> None:
    """One caller's, and as many again as soon as they end: who comes gets a place within a minute."""
    waits = []
    for seed in range(20):
        dice = random.Random(seed)  # noqa: S311
        place = Place(4)
        for number in range(4):
            await place.use("eve", f"eve-{number}", 10)
        waited = 0
        while not await place.use("alice", "alice"):
            waited += 1
            assert waited <= 60, "seconds"
            for number in range(4):
                place.stream("eve", f"eve-{number}", dice.randint(5, 15))
            await place.pause(1)
        await place.close()
        waits.append(waited)
    assert all(waits), "else nothing was in use"


async def test_a_storm_leaves_the_others_nine_tenths_of_their_hits() -> None:
    """One caller loads something new each second and streams from it; the others come back to theirs."""
    for seed in range(5):
        dice = random.Random(seed)  # noqa: S311
        place = Place(16)
        others = [f"caller-{number}" for number in range(dice.randint(1, 7))]
        each = 16 // (len(others) + 1)
        theirs = [(who, f"{who}-{number}") for who in others for number in range(each)]
        for who, name in theirs:
            await place.use(who, name)
        hits: Counter[bool] = Counter()
        for second in range(400):
            await place.use("eve", f"eve-{second}", dice.randint(1, 20))
            hits[await place.use(*dice.choice(theirs))] += 1
            await place.pause(1)
        assert hits[True] >= 0.9 * hits.total(), hits
        await place.close()
