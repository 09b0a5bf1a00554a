"""A thousand adapters through the store, the residents and a small quota: nothing piles up."""

import asyncio
import gc
import hashlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from backend.fetch import Fetcher
from backend.flights import Flights
from backend.jobs import Answer, Choice, Done, File, Job, Listing
from backend.loads import Limits, Loads
from backend.metrics import Metrics
from backend.plugin.traffic import ModelUse, Status
from backend.residents import Residents
from backend.shelf import PINS, RECORDS, STAGING, size_of
from backend.store import Store
from tests.backend.safetensors_files import ADAPTER, BASE, CONFIG, header, pack
from wire import control
from wire.control import Ready
from wire.repo import RepoRef
from wire.seal import ScopedToken

COUNT = 1000
WARM = 200  # loads after which caches are full
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
    pid = 0

    def __init__(self) -> None:
        self.answers: asyncio.Queue[Answer] = asyncio.Queue()

    async def list(self, job: Job) -> Answer:
        self.files = REPOS.get(job.repo, REPOS["adapter"])
        self.folder = Path(job.staging)
        found = self.files.items()
        files = [File(name=name, size=len(c), sha256=hashlib.sha256(c).hexdigest()) for name, c in found]
        return Listing(sha=job.revision, files=tuple(files))

    async def choose(self, choice: Choice) -> None:
        for file in choice.files:
            await asyncio.to_thread((self.folder / file.name).write_bytes, self.files[file.name])
        self.answers.put_nowait(Done())

    async def answer(self) -> Answer:
        return await self.answers.get()


class InstantWorkers:
    """Hands them out."""

    @asynccontextmanager
    async def take(self) -> AsyncIterator[InstantWorker]:
        yield InstantWorker()


class InstantEngine:
    """An engine and its supervisor: takes adapters and gives them back, if their files are there."""

    def __init__(self) -> None:
        self.id = "gpu-0/0"
        self.client = self
        self.adapters: dict[str, RepoRef] = {}
        self.adapters_lock = asyncio.Lock()
        self.ended = asyncio.Event()
        self.paths: dict[str, Path] = {}

    def refusal(self, _: RepoRef) -> None:
        return None

    async def ready(self, *_: Any) -> "InstantEngine":
        return self

    def describe(self) -> control.Engine:
        return control.Engine(id=self.id, boot="b", port=1, base=f"demo/base@{SHA}", state="ready")

    async def status(self) -> Status:
        uses = {name: ModelUse(in_flight=0, idle=float(-i)) for i, name in enumerate(self.paths)}
        return Status(in_flight=0, draining=False, models=uses)

    async def load(self, name: str, path: Path) -> None:
        assert (path / "adapter_model.safetensors").read_bytes() == WEIGHTS
        self.paths[name] = path

    async def unload(self, name: str) -> None:
        # Its files must be there until now: vLLM reads them again when it likes.
        assert (self.paths.pop(name) / "adapter_config.json").exists()


def _handles() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def _objects() -> int:
    gc.collect()
    return len(gc.get_objects())


def _within(store: Store, engine: InstantEngine) -> None:
    """Under quota by the books and on the disk, and the loaded ones are there."""
    on_disk = sum(size_of(path) for path in store.root.glob("[!.]*"))
    assert store.bytes == on_disk <= QUOTA
    assert len(engine.adapters) <= PLACES
    assert all(path.is_dir() for path in engine.paths.values())


async def test_a_thousand_adapters_leave_nothing_behind(tmp_path: Path) -> None:
    """The store stays under its quota; no handle, no temporary file, no record and no object is leaked."""
    store, metrics, engine = Store(tmp_path / "store", QUOTA, time.time), Metrics(), InstantEngine()
    store.open()
    fetcher = Fetcher(store, InstantWorkers(), metrics, None)  # type: ignore[arg-type]
    limits = Limits(max_model_bytes=QUOTA, max_adapter_bytes=QUOTA, max_rank=16, linger=1)
    loads = Loads(store, Flights(fetcher), engine, Residents(store, metrics, PLACES), limits)  # type: ignore[arg-type]

    async def load(number: int) -> None:
        adapter = f"demo/lora-{number}@{SHA}"
        scoped = ScopedToken(
            token="", base=f"demo/base@{SHA}", adapter=adapter, sub="s", aud="", boot="", jti="", iat=0, exp=0
        )
        *_, last = [event async for event in loads.follow(loads.begin(scoped))]
        assert isinstance(last, Ready), last
        assert last.loaded

    handles = objects = 0
    for number in range(0, COUNT, 4):
        await asyncio.gather(*(load(number + n) for n in range(4)))
        if number % 100 == 0:
            _within(store, engine)
        if number == WARM:
            handles, objects = _handles(), _objects()
    _within(store, engine)
    assert _handles() <= handles
    assert _objects() < objects * 1.02
    assert list((store.root / STAGING).iterdir()) == list((store.root / PINS).iterdir()) == []
    kept = sum(1 for _ in store.root.glob("[!.]*/*/*"))
    assert sum(1 for _ in (store.root / RECORDS).iterdir()) == kept
    assert 'hubgate_downloads_total{kind="adapter",result="ok"} 1000.0' in metrics.render({}).decode()
    store.close()
