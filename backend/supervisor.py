"""Which engines run. The only place that starts one, or asks one to end.

All mutable state is in `_engines` and `_penalties`; every change to it happens on the event loop,
between two awaits, or under `_room`. What one engine goes through stands in `backend.engine`.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import structlog

from backend.engine import Engine
from backend.engine_client import EngineError
from backend.gpus import Turns
from backend.launcher import Launcher
from backend.metrics import End, Metrics
from backend.placement import fitting, need, used
from backend.settings import Engines
from backend.store import Store
from wire import control
from wire.control import Evicted, Failed
from wire.repo import RepoRef

STEADY = 60.0  # seconds; an engine that ran for this long failed for a reason of its own
LONGEST_BACKOFF = 120.0  # seconds
REAP = 15.0  # seconds between two looks for idle engines, at most

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Penalty:
    """How often a base model failed in a row, and when it may be tried again."""

    failures: int
    until: float

    def after(self, now: float) -> "Penalty":
        """One failure more: 1, 2, 4, … seconds."""
        wait = min(2.0**self.failures, LONGEST_BACKOFF)
        return Penalty(self.failures + 1, now + wait)


@dataclass(slots=True)
class Errand:
    """What one caller's load does to engines, for the audit of whoever asked: a pseudonym."""

    asked_by: str
    started: bool = False
    evicted: list[Evicted] = field(default_factory=list)


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
        self._slots = turns.slots
        self._clock = clock
        self._engines: dict[RepoRef, Engine] = {}
        self._owners: set[asyncio.Task[None]] = set()
        self._penalties: dict[RepoRef, Penalty] = {}
        self._preloaded: dict[str, RepoRef | None] = {preload.repo: None for preload in config.preload}
        self._room = asyncio.Lock()
        self._closing = False

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

    def running(self, repo: str) -> Engine | None:
        """The engine that has this repo, at whatever commit, and is not about to end."""
        alive = (e for e in self.engines() if e.base.id == repo and e.state in ("starting", "ready"))
        return next(alive, None)

    def describe(self) -> tuple[control.Engine, ...]:
        """The engines as proxies see them."""
        return tuple(engine.describe() for engine in self.engines())

    def pin(self, base: RepoRef) -> None:
        """From now on this is the commit at which a preloaded repo is served."""
        self._preloaded[base.id] = base

    def is_ready(self) -> bool:
        """Whether all preloaded models answer."""
        states = {engine.base: engine.state for engine in self._engines.values()}
        return all(base is not None and states.get(base) == "ready" for base in self._preloaded.values())

    def refusal(self, base: RepoRef) -> Failed | None:
        """Why this base model is not run here; `None` if it may be."""
        if base in self._engines or any(fnmatchcase(base.id, one.repo) for one in self._config.on_demand):
            return None
        if base.id not in self._preloaded:
            return _failed("no_capacity", base, "this backend does not run this base model")
        pinned = self._preloaded[base.id]
        if pinned is not None and pinned != base:
            return _failed("no_capacity", base, "this backend runs this base model at another commit", 5)
        return None

    async def ready(self, base: RepoRef, errand: Errand) -> Engine | Failed:
        """An engine that answers for `base`, which lies in the store and is held by the caller."""
        engine: Engine | Failed | None = self._engines.get(base)
        if not isinstance(engine, Engine) or engine.state not in ("starting", "ready"):
            async with self._room:
                engine = await self._start(base, errand)
        if isinstance(engine, Failed):
            return engine
        await engine.settled.wait()
        if engine.state == "ready":
            return engine
        why = f": {engine.failure}" if engine.failure else ""
        return _failed("engine_failed", base, f"the engine for this model did not start{why}", 30)

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
            for engine in self._movable():
                idle = await self._idle(engine)
                if idle is not None and idle >= self._config.idle_timeout:
                    engine.stop("idle")

    async def close(self) -> None:
        """End all engines at once and wait until no process of them is left."""
        self._closing = True
        for engine in self.engines():
            engine.stop("shutdown")
        await asyncio.gather(*self._owners)

    async def _start(self, base: RepoRef, errand: Errand) -> Engine | Failed:
        engine = self._engines.get(base)
        if engine is not None and engine.state in ("starting", "ready"):
            return engine  # somebody else started it while we waited for our turn
        if engine is not None:
            await engine.ended.wait()
        if refusal := self.refusal(base):  # it may have been refreshed while we waited
            return refusal
        if self._closing:
            return _failed("no_capacity", base, "this backend is shutting down")
        penalty = self._penalties.get(base)
        if penalty is not None and penalty.until > self._clock():
            wait = int(penalty.until - self._clock()) + 1
            return _failed("engine_failed", base, "the engine for this model failed and is kept back", wait)
        slot = await self._slot(base, errand)
        if slot is None:
            return _failed("no_capacity", base, "all engines are busy with other models", 30)
        engine = self._launcher.engine(base, slot, errand.asked_by)
        path = self._store.hold(base)
        self._engines[base] = engine
        errand.started = True
        owner = asyncio.create_task(self._own(engine, path))
        self._owners.add(owner)
        owner.add_done_callback(self._owners.discard)
        return engine

    async def _own(self, engine: Engine, path: Path) -> None:
        """The owner task: from the wait for its GPU until nothing of its process is left."""
        asked = need(str(engine.base), self._config.args(engine.base.id))
        devices = used(self._slots[engine.slot], asked)
        ends: list[Callable[[], None]] = []

        async def prepare() -> None:
            ends.append(await self._turns.take(devices, asked.share))

        settling = asyncio.create_task(self._settle(engine, ends))
        try:
            await engine.run(prepare, lambda: self._launcher.start(engine, path))
        finally:
            self._judge(engine)
            for adapter in engine.adapters.values():
                self._store.release(adapter)
            engine.adapters.clear()
            self._store.release(engine.base)
            if self._engines.get(engine.base) is engine:
                del self._engines[engine.base]
        await settling

    async def _settle(self, engine: Engine, ends: list[Callable[[], None]]) -> None:
        """Its GPU's turn is over as soon as it holds its memory, or never will."""
        await engine.settled.wait()
        for end_turn in ends:
            end_turn()
        self._metrics.cold_start("base", "ok" if engine.ready_since else "failed")

    def _judge(self, engine: Engine) -> None:
        """Whether the base model is kept back for a while, now that its engine has ended."""
        self._metrics.engine_ended(engine.end or "crashed")
        now = self._clock()
        steady = engine.ready_since and now - engine.ready_since > STEADY
        if engine.state != "failed" or steady:
            self._penalties.pop(engine.base, None)
        if engine.state == "failed":
            self._penalties[engine.base] = self._penalties.get(engine.base, Penalty(0, 0)).after(now)

    async def _slot(self, base: RepoRef, errand: Errand) -> int | None:
        """A free slot with devices enough; if need be, one whose idle engine is ended for it."""
        fit = fitting(self._slots, need(str(base), self._config.args(base.id)))
        taken = {engine.slot for engine in self.engines()}
        free = [slot for slot in fit if slot not in taken]
        if free and len(self._slots) - len(taken) > self._reserved(base):
            return free[0]
        candidates = []
        for engine in self._movable():
            idle = await self._idle(engine) if engine.slot in fit else None
            if idle is not None and self._clock() - engine.ready_since >= self._config.min_residency:
                candidates.append((idle, engine.slot, engine))
        if not candidates:
            return None
        _, slot, engine = max(candidates)
        errand.evicted.append(Evicted(repo=str(engine.base), kind="base"))
        log.info(
            "engine.evicted",
            engine=engine.id,
            base=str(engine.base),
            room_for=str(base),
            asked_by=errand.asked_by,
        )
        engine.stop("room")
        await engine.ended.wait()
        return slot

    def _reserved(self, base: RepoRef) -> int:
        """Slots that are kept for preloaded models which have no engine at this moment."""
        waiting = [repo for repo, pin in self._preloaded.items() if pin is None or pin not in self._engines]
        wanted = self._preloaded.get(base.id, base)
        return len([repo for repo in waiting if repo != base.id or wanted not in (None, base)])

    def _movable(self) -> list[Engine]:
        pinned = set(self._preloaded.values())
        return [e for e in self.engines() if e.state == "ready" and e.base not in pinned]

    async def _idle(self, engine: Engine) -> float | None:
        """Seconds since its last request; `None` while it has any, or does not say."""
        try:
            status = await engine.client.status()
        except EngineError as error:
            log.warning("engine.status_failed", engine=engine.id, error=str(error))
            return None
        if status.in_flight:
            return None
        age = self._clock() - engine.ready_since
        return min([age, *(use.idle for use in status.models.values())])


def _failed(code: control.FailureCode, base: RepoRef, message: str, retry_after: int | None = None) -> Failed:
    return Failed(code=code, message=f"{base.id}: {message}", repo=str(base), retry_after=retry_after)
