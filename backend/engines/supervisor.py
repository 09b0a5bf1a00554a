"""Which engines run. The only place that starts one, or asks one to end.

All mutable state is in `_engines` and `_penalties`; every change to it happens on the event loop,
between two awaits, or under `_one`. What one engine goes through stands in `hubgate.backend.engines.engine`,
who makes room for whom in `hubgate.backend.engines.scheduler`.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

from hubgate.backend.engines.engine import Engine
from hubgate.backend.engines.gpus import Turns
from hubgate.backend.engines.launcher import Launcher
from hubgate.backend.engines.lifecycle import EngineLifecycle
from hubgate.backend.engines.line import EngineLine, Waiting
from hubgate.backend.engines.scheduler import EngineScheduler, LoadReport
from hubgate.backend.gpu_placement import need, used
from hubgate.backend.metrics import End, Metrics
from hubgate.backend.settings import Engines
from hubgate.backend.store.store import Store
from hubgate.wire import control_api
from hubgate.wire.control_api import LoadFailed
from hubgate.wire.repo import RepoRef

STEADY = 60.0  # seconds; an engine that ran for this long failed for a reason of its own
LONGEST_BACKOFF = 120.0  # seconds
REAP = 15.0  # seconds between two looks for idle engines, at most


@dataclass(frozen=True, slots=True)
class Penalty:
    """How often a base model failed in a row, and when it may be tried again."""

    failures: int
    until: float

    def after(self, now: float) -> "Penalty":
        """One failure more: 1, 2, 4, … seconds."""
        wait = min(2.0**self.failures, LONGEST_BACKOFF)
        return Penalty(self.failures + 1, now + wait)


class Supervisor:
    """Gives out engines for base models that lie in the store."""

    def __init__(
        self,
        config: Engines,
        launcher: Launcher,
        store: Store,
        metrics: Metrics,
        *,
        turns: Turns,
        clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._launcher = launcher
        self._store = store
        self._metrics = metrics
        self._turns = turns
        self._clock = clock
        self._engines: dict[RepoRef, Engine] = {}
        self._owners: set[asyncio.Task[None]] = set()
        self._penalties: dict[RepoRef, Penalty] = {}
        self._preloaded: dict[str, RepoRef | None] = {preload.repo: None for preload in config.preload}
        self._scheduler = EngineScheduler(
            config,
            turns.slots,
            self._preloaded,
            self.engines,
            clock,
            evicted=partial(metrics.evicted, "engine"),
        )
        self._line = EngineLine()
        self._one = asyncio.Lock()  # one at a time is woken up or started, and has room made for it
        self._closing = False

    def replace(self, config: Engines) -> None:
        """Go by other settings from now on; an engine that runs keeps the flags that it was started with."""
        self._config = config
        self._scheduler.replace(config)
        for engine in self._engines.values():
            engine.start_timeout, engine.hang_timeout = config.start_timeout, config.hang_timeout
        wanted = {preload.repo for preload in config.preload}
        for repo in [repo for repo in self._preloaded if repo not in wanted]:
            del self._preloaded[repo]
        for repo in wanted:
            self._preloaded.setdefault(repo, None)

    def engines(self) -> Sequence[Engine]:
        """All that have a process, in any state."""
        return [engine for engine in self._engines.values() if not engine.ended.is_set()]

    def is_configured(self, base: RepoRef) -> bool:
        """Whether the operator's configuration names this model; all others are callers' choices."""
        return base.id in self._preloaded or any(base.id == one.repo for one in self._config.on_demand)

    def states(self) -> Sequence[str]:
        """Of all engines, and `failed` for each base model that is kept back after a failure."""
        back = (base for base, penalty in self._penalties.items() if penalty.until > self._clock())
        kept_back = ["failed" for base in back if base not in self._engines]
        return [*(engine.state for engine in self.engines()), *kept_back]

    def running(self, repo: str) -> list[Engine]:
        """The engines that have this repo, at whatever commit, and are not about to end."""
        return [e for e in self.engines() if e.base.id == repo and not e.stop_asked.is_set()]

    def describe(self) -> tuple[control_api.EngineInfo, ...]:
        """The engines as proxies see them."""
        return tuple(engine.describe() for engine in self.engines())

    def pin(self, base: RepoRef) -> None:
        """From now on this is the commit at which a preloaded repo is served."""
        self._preloaded[base.id] = base

    def is_ready(self) -> bool:
        """Whether all preloaded models answer."""
        states = {engine.base: engine.state for engine in self._engines.values()}
        return all(base is not None and states.get(base) == "ready" for base in self._preloaded.values())

    def refusal(self, base: RepoRef) -> LoadFailed | None:
        """Why this base model is not run here; `None` if it may be."""
        if self._closing:
            return _failed("no_capacity", base, "this backend is shutting down")
        if base in self._engines or any(fnmatchcase(base.id, one.repo) for one in self._config.on_demand):
            return None
        if base.id not in self._preloaded:
            return _failed("no_capacity", base, "this backend does not run this base model")
        pinned = self._preloaded[base.id]
        if pinned is not None and pinned != base:
            return _failed("no_capacity", base, "this backend runs this base model at another commit", 5)
        return None

    async def ready(self, base: RepoRef, report: LoadReport) -> Engine | LoadFailed:
        """An engine that answers for `base`, which lies in the store and is held by the caller.

        Where all are busy with other models it waits for its turn, unless there can be none.
        """
        engine = await self._up(base, report)
        while isinstance(engine, Engine):
            await engine.settled.wait()
            if engine.state == "ready":
                engine.ask(report.asked_by, self._config.min_residency)
                return engine
            if engine.end != "not_woken":
                why = f": {engine.failure}" if engine.failure else ""
                return _failed("engine_failed", base, f"the engine for this model did not start{why}", 30)
            engine = await self._up(base, report)  # what could not be woken up is gone: a new one
        return engine

    async def ended(self, base: RepoRef) -> None:
        """Wait until the engine of this base model, if it has one, is gone."""
        if engine := self._engines.get(base):
            await engine.ended.wait()

    async def end(self, base: RepoRef, why: End) -> None:
        """Drain the engine of this base model, if it has one, and wait until it is gone."""
        if engine := self._engines.get(base):
            engine.stop(why)
            await engine.ended.wait()

    async def reap(self) -> None:
        """Forever: end engines that nobody has used for `idle_timeout`."""
        while True:
            await asyncio.sleep(min(REAP, self._config.idle_timeout / 2))
            async for engine in self._scheduler.idle_for(self._config.idle_timeout):
                engine.stop("idle")

    async def close(self) -> None:
        """End all engines at once and wait until no process of them is left."""
        self._closing = True
        for engine in self.engines():
            engine.stop("shutdown")
        await asyncio.gather(*self._owners)

    async def _up(self, base: RepoRef, report: LoadReport) -> Engine | LoadFailed:
        """One that is ready or about to be."""
        engine = self._engines.get(base)
        if engine is not None and engine.is_up:
            return engine
        asked = time.monotonic()
        with self._line.joined(report.asked_by, report.is_present) as waiting:
            while True:
                await self._line.turn(waiting)
                async with self._one:
                    found = await self._have(base, report, waiting)
                if found is not None:
                    self._metrics.waited("engine", time.monotonic() - asked)
                    return found
                report.position = partial(self._line.position, waiting)

    async def _have(self, base: RepoRef, report: LoadReport, waiting: Waiting) -> Engine | LoadFailed | None:
        """One that others started meanwhile, that is woken up, or that is new; `None`: not yet."""
        engine = self._engines.get(base)
        if engine is not None:
            if engine.is_up:
                return engine
            if not engine.vacated.is_set():  # whoever it leaves for comes first
                waiting.wants = ()
                return None
        if refusal := self.refusal(base):  # it may have been refreshed while we waited
            return refusal
        penalty = self._penalties.get(base)
        if penalty is not None and penalty.until > self._clock():
            wait = int(penalty.until - self._clock()) + 1
            return _failed("engine_failed", base, "the engine for this model failed and is kept back", wait)
        own = engine.slot if engine is not None and engine.is_asleep else None
        fit = self._scheduler.fitting(base)
        waiting.wants = self._scheduler.within_reach(base, fit)
        left = [slot for slot in fit if slot not in self._line.promised]
        slot = await self._slot(base, own, left, report)
        if slot is None:
            if waiting.wants:
                return None
            return _failed("no_capacity", base, "all engines are busy with other models", 30)
        if engine is not None and engine.is_asleep and slot == own and not self._closing:
            engine.wake(report.asked_by)
            self._line.given(report.asked_by)
            report.started = True
            return engine
        await self.end(base, "room")  # one that sleeps in another slot, which is busy
        return self.refusal(base) or self._start(base, slot, report)

    async def _slot(
        self, base: RepoRef, own: int | None, fit: Sequence[int], report: LoadReport
    ) -> int | None:
        """A free slot: if it can be had, that in which its engine sleeps."""
        if own is not None and own in fit:  # no other engine's tenure ends for it
            slot = await self._scheduler.free_slot(base, [own], report)
            if slot is not None:
                return slot
        return await self._scheduler.free_slot(base, fit, report, self._line.callers())

    def _start(self, base: RepoRef, slot: int, report: LoadReport) -> Engine:
        engine = self._launcher.engine(base, slot, self._scheduler.place(slot), report.asked_by)
        path = self._store.hold(base)
        self._engines[base] = engine
        self._line.given(report.asked_by)
        report.started = True
        task = asyncio.create_task(self._own(engine, path))
        self._owners.add(task)
        task.add_done_callback(self._owners.discard)
        return engine

    async def _own(self, engine: Engine, path: Path) -> None:
        """The owner task: from the wait for its GPU until nothing of its process is left."""
        asked = need(str(engine.base), self._config.args(engine.base.id))
        devices = used(self._turns.slots[engine.slot], asked)
        owner = EngineLifecycle(
            engine,
            self._metrics,
            take_turn=partial(self._turns.take, devices, asked.share),
            start=partial(self._launcher.start, engine, path),
            release=self._store.release,
        )
        try:
            await owner.run()
        finally:
            self._judge(engine)
            owner.forget_adapters()
            self._store.release(engine.base)
            if self._engines.get(engine.base) is engine:
                del self._engines[engine.base]

    def _judge(self, engine: Engine) -> None:
        """Whether the base model is kept back for a while, now that its engine has ended."""
        self._metrics.engine_ended(engine.end or "crashed")
        now = self._clock()
        steady = engine.ready_since and now - engine.ready_since > STEADY
        if engine.state != "failed" or steady:
            self._penalties.pop(engine.base, None)
        if engine.state == "failed" and engine.end != "not_woken":  # it may still start
            self._penalties[engine.base] = self._penalties.get(engine.base, Penalty(0, 0)).after(now)


def _failed(
    code: control_api.FailureCode, base: RepoRef, message: str, retry_after: int | None = None
) -> LoadFailed:
    return LoadFailed(code=code, message=f"{base.id}: {message}", repo=str(base), retry_after=retry_after)
