"""A thousand adapters through one engine process and a small quota: nothing piles up, and none fails."""

import asyncio
import gc
import hashlib
import json
import os
import statistics
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from bench.gauge import rss_bytes
from hubgate.backend.app import Backend, Source, backend, check
from hubgate.backend.background import Background
from hubgate.backend.downloads.messages import Answer, Done, FileSelection, Job, Listing
from hubgate.backend.repo_files import RepoFile
from hubgate.backend.store.layout import PINS, RECORDS, STAGING, size_of
from hubgate.demo.hub import DemoHub
from hubgate.wire.control_api import Ready
from hubgate.wire.seal import ScopedToken
from tests.backend.admission.safetensors_files import ADAPTER, BASE, CONFIG, header, pack
from tests.backend.harness import fake_argv, settings_for
from tests.fakes.keyring import Keyring

COUNT = 1000
WARM = 200  # loads after which caches are full
STEP = 50  # loads between two looks at the memory
SLOPE = 1024.0  # bytes for each adapter
CALLERS = 3  # at a time
PLACES = 8  # adapters in the engine
QUOTA = 40_000  # bytes; some forty adapters
SHA = "a" * 40

WEIGHTS = pack(header(ADAPTER), (2 * 8 + 4 * 2) * 4)
REPOS = {
    "demo/base": {"config.json": b"{}", "model.safetensors": pack(header(BASE), (256 + 64 + 32 + 128) * 4)},
    "adapter": {"adapter_config.json": json.dumps(CONFIG).encode(), "adapter_model.safetensors": WEIGHTS},
}


class InstantWorker:
    """Answers as a worker does, from memory: a thousand processes would take minutes."""

    alive = True
    done = True
    pid = 0

    def __init__(self) -> None:
        self.answers: asyncio.Queue[Answer] = asyncio.Queue()

    async def list(self, job: Job) -> Answer:
        self.files = REPOS.get(job.repo, REPOS["adapter"])
        self.folder = Path(job.staging)
        found = self.files.items()
        files = [RepoFile(name=name, size=len(c), sha256=hashlib.sha256(c).hexdigest()) for name, c in found]
        return Listing(sha=job.revision, files=tuple(files))

    async def choose(self, choice: FileSelection) -> None:
        for file in choice.files:
            await asyncio.to_thread((self.folder / file.name).write_bytes, self.files[file.name])
        self.answers.put_nowait(Done())

    async def answer(self) -> Answer:
        return await self.answers.get()


class InstantWorkers:
    """Hands them out."""

    def __init__(self, *_: object) -> None:
        pass

    def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    @asynccontextmanager
    async def take(self) -> AsyncIterator[InstantWorker]:
        yield InstantWorker()


class Crowd:
    """A whole backend with one engine process, and what can be seen of it from outside."""

    def __init__(self, running: Backend, store: Path) -> None:
        self.running = running
        self.store = store

    async def load(self, number: int) -> None:
        """Make an adapter warm that was not."""
        adapter = f"demo/lora-{number}@{SHA}"
        scoped = ScopedToken(
            token="", base=f"demo/base@{SHA}", adapter=adapter, sub="s", aud="", boot="", jti="", iat=0, exp=0
        )
        loader = self.running.loader
        *_, last = [event async for event in loader.follow(loader.begin(scoped))]
        assert isinstance(last, Ready), last
        assert last.loaded
        assert len(last.engine.adapters) <= PLACES
        assert adapter in last.engine.adapters

    def within(self) -> None:
        """Under quota on the disk; what no engine and no download uses may go at any time."""
        assert sum(size_of(path) for path in self.store.glob("[!.]*")) <= QUOTA

    async def metrics(self) -> str:
        return (await self.running.probes.metrics(None)).text or ""  # type: ignore[arg-type]


@pytest.fixture
async def crowd(tmp_path: Path, hub: DemoHub, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Crowd]:
    """With an engine that refuses a ninth adapter, and one whose files are not there."""
    monkeypatch.setattr("hubgate.backend.app.WorkerPool", InstantWorkers)
    settings = settings_for(
        tmp_path,
        Keyring.make(tmp_path / "keys"),
        hub,
        store={"max_bytes": QUOTA, "max_model_bytes": QUOTA},
        adapters={"max_cpu_loras": PLACES, "max_bytes": QUOTA},
    )
    checked = replace(check(settings, {}, lambda: None, lambda: "vllm"), make_argv=fake_argv)
    died: list[str] = []
    background = Background(lambda: died.append("died"))
    async with backend(settings, checked, background, {}, Source(lambda: settings)) as running:
        try:
            yield Crowd(running, settings.store.path)
        finally:
            await background.close()
    assert not died


def _handles() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_a_thousand_adapters_leave_nothing_behind(crowd: Crowd) -> None:
    """None fails, the quota holds at every step, and after the 200th memory grows by less than 1 KiB each."""
    await crowd.load(0)
    handles, memory = 0, dict[int, int]()
    for number in range(1, COUNT, CALLERS):
        await asyncio.gather(*(crowd.load(one) for one in range(number, number + CALLERS)))
        crowd.within()
        if number == WARM - WARM % CALLERS + 1:
            handles = _handles()
        if handles and number // STEP != (number - CALLERS) // STEP:
            gc.collect()
            memory[number] = rss_bytes([os.getpid()])
    slope = statistics.linear_regression(list(memory), list(memory.values())).slope
    assert slope <= SLOPE, memory
    assert _handles() <= handles + CALLERS  # connections to the engine
    store = crowd.store
    assert list((store / STAGING).iterdir()) == list((store / PINS).iterdir()) == []
    kept = sum(1 for _ in store.glob("[!.]*/*/*"))
    assert sum(1 for _ in (store / RECORDS).iterdir()) == kept
    text = await crowd.metrics()
    assert f'hubgate_downloads_total{{kind="adapter",result="ok"}} {COUNT}.0' in text
    assert f'hubgate_cold_starts_total{{kind="adapter",result="ok"}} {COUNT}.0' in text
    assert f"hubgate_adapters_loaded {PLACES}.0" in text
    assert f"hubgate_store_bytes {sum(size_of(path) for path in store.glob('[!.]*'))}.0" in text
