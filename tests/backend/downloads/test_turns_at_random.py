"""Downloads of many callers in random plays: real flights and turns, with workers from memory."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from hubgate.backend.admission.file_selection import Selected
from hubgate.backend.downloads import fetcher as module
from hubgate.backend.downloads.attempt import DownloadRequest, Interrupted, Patience, Rules
from hubgate.backend.downloads.fetcher import PARALLEL, Fetched, Fetcher
from hubgate.backend.downloads.messages import Failure, Listing
from hubgate.backend.downloads.single_flight import Interest, Outcome, SingleFlight
from hubgate.backend.fairness.line import OPERATOR
from hubgate.backend.metrics import Metrics
from hubgate.backend.store.store import Staging
from hubgate.wire.repo import RepoRef
from hubgate.wire.secret import Secret

PLAYS = 1000
STEPS = 20
SHA = "a" * 40
RULES = Rules(lambda _: Selected((), 1), lambda _: None)
DOWN = Failure(code="hub_unavailable", message="down")
ENDS: tuple[Failure | Interrupted | None, ...] = (None, None, DOWN, Interrupted(DOWN))


class Attempt:
    """One that ends when it is told to, in the place of a worker process."""

    running: list["Attempt"] = []  # noqa: RUF012 - emptied before each play

    def __init__(self, _worker: object, ref: RepoRef, *_: object) -> None:
        self.ref = ref
        self.end: asyncio.Future[Failure | Interrupted | None] = asyncio.get_running_loop().create_future()
        self.who = ""

    async def list(self, token: Secret | None, _endpoint: str) -> Listing:
        self.who = token.reveal() if token else ""
        return Listing(sha=SHA, files=())

    async def fetch(self, *_: object) -> Failure | Interrupted | None:
        self.running.append(self)
        try:
            return await self.end
        finally:
            self.running.remove(self)


class Workers:
    """As many as are asked for."""

    @asynccontextmanager
    async def take(self) -> AsyncIterator[None]:
        yield


class Files:
    """A store with room for everything."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def staging(self) -> Iterator[Staging]:
        yield Staging(self.folder)

    def reserve(self, *_: object) -> None:
        pass

    def publish(self, *_: object) -> None:
        pass


class Callers:
    """Who want which repos."""

    def __init__(self, folder: Path) -> None:
        store: Any = Files(folder)
        workers: Any = Workers()
        self.metrics = Metrics()
        fetcher = Fetcher(store, workers, self.metrics, None, Patience(pause=0, attempts=3))
        self.flights = SingleFlight(fetcher)
        self.all: list[tuple[Interest, asyncio.Future[Outcome]]] = []
        self.names: list[str] = []
        Attempt.running.clear()

    def want(self, who: str, name: str) -> asyncio.Future[Outcome]:
        want = DownloadRequest(RepoRef.parse(f"org/{name}@{SHA}"), "adapter", RULES)
        interest = Interest(who)
        _, future = self.flights.join(want, Secret(who), interest)
        self.all.append((interest, future))
        self.names.append(name)
        return future

    def held(self) -> Counter[str]:
        """Workers of each caller, those apart that several callers wait for."""
        own = (name.rpartition("-")[0] for name in self.working() if name != "shared")
        return Counter(own)

    def waiting(self) -> set[str]:
        """Who waits for a download of their own that has no worker."""
        working = set(self.working())
        there = [
            (interest.caller, name)
            for (interest, future), name in zip(self.all, self.names, strict=True)
            if interest.present and not future.done()
        ]
        wanted = {ref.name for ref in self.flights._downloads} - working - {"shared"}
        return {who for who, name in there if name in wanted and name.startswith(f"{who}-")}

    def open(self) -> list[tuple[Interest, asyncio.Future[Outcome]]]:
        return [one for one in self.all if not one[1].done()]

    async def settle(self) -> None:
        for _ in range(25):
            await asyncio.sleep(0)

    def working(self) -> list[str]:
        return [attempt.ref.name for attempt in Attempt.running]


@pytest.fixture
def callers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Callers]:
    monkeypatch.setattr(module, "DownloadAttempt", Attempt)
    monkeypatch.setattr(module, "LEAST_TURN", 0)
    monkeypatch.setattr(module.log, "info", lambda *_, **__: None)
    monkeypatch.setattr(module.log, "warning", lambda *_, **__: None)
    return lambda: Callers(tmp_path)


async def test_who_comes_is_served_beside_any_number_of_hanging_ones(callers: Callable[[], Callers]) -> None:
    """Twenty of one caller's, who still waits for them; the operator has a worker beside all of them."""
    crowd = callers()
    for number in range(20):
        crowd.want("eve", f"eve-{number}")
    await crowd.settle()
    assert len(crowd.working()) == PARALLEL
    crowd.want("bob", "bobs")
    crowd.want(OPERATOR, "own")
    await crowd.settle()
    assert {"bobs", "own"} <= set(crowd.working())
    assert len(crowd.working()) == PARALLEL + 1
    for _, future in crowd.all:
        future.cancel()
    await crowd.settle()
    assert not crowd.working()


def step(dice: random.Random, crowd: Callers, names: list[str]) -> None:
    """One thing happens."""
    what = dice.choices(("want", "end", "leave", "give up"), (6, 4, 1, 1))[0]
    if what == "want":
        who = names[0] if dice.random() < 0.5 else dice.choice(names)
        crowd.want(who, f"{who}-{dice.randint(0, 9)}" if dice.random() < 0.8 else "shared")
    elif what == "end" and Attempt.running:
        dice.choice(Attempt.running).end.set_result(dice.choice(ENDS))
    elif some := crowd.open():
        interest, future = dice.choice(some)
        if what == "leave":
            crowd.flights.left(interest)
        elif what == "give up":
            future.cancel()


async def test_no_wish_is_lost_in_random_plays(callers: Callable[[], Callers]) -> None:
    """Callers come, leave and give up; attempts end well, badly, or are called back: all get an answer."""
    for seed in range(PLAYS):
        dice, crowd = random.Random(seed), callers()  # noqa: S311
        names = [f"caller-{number}" for number in range(dice.randint(2, 20))]
        for _ in range(STEPS):
            step(dice, crowd, names)
            await crowd.settle()
            wanted = {ref.name for ref in crowd.flights._downloads}
            working = crowd.working()
            assert len(working) == len(set(working)) == min(PARALLEL, len(wanted)), "none idle, none twice"
            if len(working) == len(wanted):
                continue  # nobody waits
            held, shared = crowd.held(), "shared" in working  # which counts for one of those who wait for it
            for who in crowd.waiting():
                assert max(held.values(), default=0) <= held[who] + 1 + shared, "nobody is above their share"
        async with asyncio.timeout(10):
            while crowd.open():
                for attempt in list(Attempt.running):
                    attempt.end.set_result(None)
                await crowd.settle()
        for _, future in crowd.all:
            assert (
                future.cancelled()
                or future.result() is None
                or isinstance(future.result(), Fetched | Failure)
            )
        assert not crowd.flights._downloads
        assert not Attempt.running
