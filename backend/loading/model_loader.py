"""Makes a model warm: fetch what is missing, admit it, have an engine ready, load the adapter.

The adapter comes first: it is small, and if it is refused, nobody waits for the base model. The
caller's token is needed for the downloads only, and forgotten after them.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec
import structlog

from hubgate.backend.admission.adapter import admit
from hubgate.backend.admission.adapter_config import inspect_adapter
from hubgate.backend.admission.base import inspect_base
from hubgate.backend.admission.file_selection import Rejected, select_adapter, select_base
from hubgate.backend.downloads.attempt import DownloadRequest, Kind, ProgressMeter, Rules
from hubgate.backend.downloads.fetcher import Fetched
from hubgate.backend.downloads.messages import Failure
from hubgate.backend.downloads.single_flight import Interest, SingleFlight
from hubgate.backend.engines.loaded_adapters import LoadedAdapters
from hubgate.backend.engines.scheduler import LoadReport
from hubgate.backend.engines.supervisor import Supervisor
from hubgate.backend.fairness.line import OPERATOR
from hubgate.backend.loading.refusals import Refusals
from hubgate.backend.loading.under_way import UnderWay
from hubgate.backend.metrics import Metrics
from hubgate.backend.store.store import Store
from hubgate.wire.control_api import Download, Event, LoadFailed, Progress, Ready, Stage
from hubgate.wire.repo import InvalidRepoError, RepoRef
from hubgate.wire.seal import ScopedToken
from hubgate.wire.secret import Secret

REPORT = 0.5  # seconds between two reports of progress
TRIES = 3  # the store may evict what was just fetched before we hold it

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class LoadLimits:
    """Sizes in bytes; `linger` in seconds; `remote_code` names the bases whose own code may run."""

    max_model_bytes: int
    max_adapter_bytes: int
    max_rank: int
    linger: float
    remote_code: frozenset[str] = frozenset()

    def rules(self, ref: RepoRef, kind: Kind) -> Rules:
        """What is fetched of a repo, and what of it is refused."""
        if kind == "adapter":
            return Rules(
                partial(select_adapter, max_bytes=self.max_adapter_bytes),
                partial(inspect_adapter, max_rank=self.max_rank),
            )
        trusted = ref.id in self.remote_code
        return Rules(
            partial(select_base, max_bytes=self.max_model_bytes, remote_code=trusted),
            partial(inspect_base, remote_code=trusted),
        )


@dataclass(slots=True)
class Load:
    """One call of `ensure`, as it goes on."""

    base: RepoRef
    adapter: RepoRef | None
    token: Secret | None
    report: LoadReport
    interest: Interest
    stage: Stage = "queued"
    repo: str = ""
    meter: ProgressMeter = field(default_factory=ProgressMeter)
    downloads: list[Download] = field(default_factory=list)

    @property
    def is_fetching(self) -> bool:
        return self.stage == "downloading"

    def progress(self) -> Progress:
        meter = self.meter if self.is_fetching else ProgressMeter()
        return Progress(
            stage=self.stage,
            repo=self.repo or str(self.base),
            done=meter.done,
            total=meter.total,
            rate=meter.rate,
            place=meter.position() or self.report.position() or msgspec.UNSET,
        )

    def failed(self, failure: LoadFailed) -> LoadFailed:
        return LoadFailed(
            code=failure.code,
            message=failure.message,
            repo=failure.repo,
            retry_after=failure.retry_after,
            downloads=tuple(self.downloads),
            evicted=tuple(self.report.evicted),
            stage=self.stage,
        )


class ModelLoader:
    """All loads that are under way, with and without somebody who waits."""

    def __init__(
        self,
        store: Store,
        downloads: SingleFlight,
        supervisor: Supervisor,
        loaded_adapters: LoadedAdapters,
        *,
        limits: LoadLimits,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._downloads = downloads
        self._supervisor = supervisor
        self._loaded_adapters = loaded_adapters
        self._limits = limits
        self._metrics = metrics
        self._under_way = UnderWay()
        self._refusals = Refusals(time.monotonic)
        self._active: list[Load] = []

    def replace(self, limits: LoadLimits) -> None:
        """Hold what is begun from now on to other limits."""
        self._limits = limits

    def begin(self, scoped: ScopedToken) -> Load:
        """What the token asks for. Raises `InvalidRepoError` if it names no repos at shas."""
        base = _pinned(scoped.base)
        adapter = _pinned(scoped.adapter) if scoped.adapter is not None else None
        interest = Interest(scoped.sub)
        report = LoadReport(scoped.sub, is_present=lambda: interest.present)
        return Load(base, adapter, scoped.secret(), report, interest)

    def preload(self, base: RepoRef, token: Secret | None) -> Load:
        """A base model that the operator wants, with the service token or as nobody."""
        return Load(base, None, token, LoadReport(OPERATOR), Interest(OPERATOR))

    async def follow(self, load: Load) -> AsyncGenerator[Event, None]:
        """Run the load and tell of it. When the listener leaves, it goes on for `linger` seconds."""
        caller, model = load.interest.caller, str(load.adapter or load.base)
        refusal = self._refusals.find(caller, model) or self._under_way.refusal(caller)
        if refusal is not None:
            self._metrics.refused()
            yield refusal
            return
        task = asyncio.create_task(self._run(load))
        self._under_way.add(load.interest, task)
        try:
            while not task.done():
                await asyncio.wait([task], timeout=REPORT)
                if not task.done():
                    yield load.progress()
            outcome = _outcome(task)
            if isinstance(outcome, LoadFailed):
                self._refusals.add(caller, model, outcome)
            yield outcome
        finally:
            if not task.done():
                self._downloads.left(load.interest)
                end = asyncio.get_running_loop().call_later(self._limits.linger, task.cancel)
                task.add_done_callback(lambda _: end.cancel())

    def downloading(self) -> int:
        """How many base models are being fetched for an engine at this moment."""
        return len({load.base for load in self._active if load.repo == str(load.base) and load.is_fetching})

    async def fetch(self, base: RepoRef, token: Secret | None) -> AsyncGenerator[Progress | LoadFailed, None]:
        """Bring a base model into the store and start nothing. Ends in silence, or with the failure."""
        load = self.preload(base, token)
        with ExitStack() as held:
            task = asyncio.create_task(self._obtain(load, base, "base", held))
            try:
                while not task.done():
                    await asyncio.wait([task], timeout=REPORT)
                    yield load.progress()
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            if failure := task.result():
                yield failure

    async def close(self) -> None:
        """Give up whatever is under way."""
        tasks = self._under_way.tasks()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, load: Load) -> Ready | LoadFailed:
        self._active.append(load)
        try:
            with ExitStack() as held:
                return await self._steps(load, held)
        except Exception:
            # The one place where the unforeseen ends: the caller gets an answer, the log the cause.
            log.exception("load.failed", base=str(load.base), adapter=str(load.adapter))
            return load.failed(LoadFailed(code="error", message="the load failed inside the backend"))
        finally:
            self._active = [other for other in self._active if other is not load]

    async def _steps(self, load: Load, held: ExitStack) -> Ready | LoadFailed:
        base, adapter = load.base, load.adapter
        failure = self._supervisor.refusal(base)
        if failure is None and adapter is not None:
            failure = await self._obtain(load, adapter, "adapter", held)
        if failure is None:
            failure = await self._obtain(load, base, "base", held)
        load.token = None
        if failure is None and adapter is not None:
            failure = await self._admit(adapter, base)
        if failure is not None:
            return load.failed(failure)
        load.stage, load.repo = "starting", str(base)
        engine = await self._supervisor.ready(base, load.report)
        if isinstance(engine, LoadFailed):
            return load.failed(engine)
        fresh = False
        if adapter is not None:
            load.stage, load.repo = "loading", str(adapter)
            loaded = await self._loaded_adapters.load(engine, adapter, load.report)
            if isinstance(loaded, LoadFailed):
                return load.failed(loaded)
            fresh = loaded.fresh
        return Ready(
            engine=engine.describe(),
            downloads=tuple(load.downloads),
            loaded=fresh,
            started=load.report.started,
            evicted=tuple(load.report.evicted),
        )

    async def _obtain(self, load: Load, ref: RepoRef, kind: Kind, held: ExitStack) -> LoadFailed | None:
        """Have `ref` in the store, fit to be used, and hold it until the load ends."""
        rules = self._limits.rules(ref, kind)
        for _ in range(TRIES):
            if (path := self._hold(ref, load.interest.caller, held)) is not None:
                # It may be here since the operator allowed more.
                unfit = await asyncio.to_thread(rules.inspect, path)
                return _rejected(ref, unfit) if unfit else None
            load.stage, load.repo = "downloading", str(ref)
            load.meter, future = self._downloads.join(
                DownloadRequest(ref, kind, rules), load.token, load.interest
            )
            outcome = await future
            if isinstance(outcome, Failure):
                return _failed(ref, outcome)
            if isinstance(outcome, Fetched):
                load.downloads.append(outcome.download)
        return LoadFailed(code="store_full", message="the store is too busy", repo=str(ref), retry_after=30)

    def _hold(self, ref: RepoRef, caller: str, held: ExitStack) -> Path | None:
        try:
            path = self._store.hold(ref, caller)
        except KeyError:
            return None
        held.callback(self._store.release, ref)
        return path

    async def _admit(self, adapter: RepoRef, base: RepoRef) -> LoadFailed | None:
        paths = self._store.find(adapter), self._store.find(base)
        verdict = await asyncio.to_thread(admit, _there(paths[0]), _there(paths[1]), self._limits.max_rank)
        if not isinstance(verdict, Rejected):
            return None
        return _rejected(adapter, verdict)


def _rejected(ref: RepoRef, verdict: Rejected) -> LoadFailed:
    log.info("repo.rejected", repo=str(ref), reason=verdict.reason)
    return _failed(ref, Failure(code="rejected", message=verdict.reason))


def _failed(ref: RepoRef, failure: Failure) -> LoadFailed:
    because = "cannot be loaded: " if failure.code == "rejected" else "cannot be fetched: "
    message = f"{ref.id} {because}{failure.message}"
    return LoadFailed(code=failure.code, message=message, repo=str(ref), retry_after=failure.retry_after)


def _outcome(task: asyncio.Task[Ready | LoadFailed]) -> Ready | LoadFailed:
    if task.cancelled():
        return LoadFailed(code="no_capacity", message="this backend is shutting down", retry_after=30)
    return task.result()


def _pinned(text: str) -> RepoRef:
    ref = RepoRef.parse(text)
    if not ref.pinned:
        raise InvalidRepoError("a scoped token names commits")
    return ref


def _there(path: Path | None) -> Path:
    if path is None:
        raise RuntimeError("what is held cannot be gone")
    return path
