"""Where an engine runs, and which other one leaves for it: to sleep, or for good.

An engine keeps the slot at which it was started, since its devices are fixed then. In a slot one engine
is awake at a time, and any number of others sleep. Each has a place, which is its port and its name.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from hubgate.backend.engines.client import EngineError
from hubgate.backend.engines.engine import Engine
from hubgate.backend.gpu_placement import Devices, fitting, need
from hubgate.backend.settings import Engines
from hubgate.wire.control_api import Evicted
from hubgate.wire.repo import RepoRef

log = structlog.get_logger()


@dataclass(slots=True)
class LoadReport:
    """What one caller's load does to engines, for the audit of whoever asked: a pseudonym."""

    asked_by: str
    started: bool = False
    evicted: list[Evicted] = field(default_factory=list)


class EngineScheduler:
    """Looks at the supervisor's engines, and asks some to leave. One call of `free_slot` at a time."""

    def __init__(
        self,
        config: Engines,
        slots: Sequence[Devices],
        preloaded: Mapping[str, RepoRef | None],
        engines: Callable[[], Sequence[Engine]],
        clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._slots = slots
        self._preloaded = preloaded
        self._engines = engines
        self._clock = clock

    def fitting(self, base: RepoRef) -> list[int]:
        """The slots with devices enough for it, the best first."""
        return fitting(self._slots, need(str(base), self._config.args(base.id)))

    def place(self, slot: int) -> int:
        """A place that no engine has: the slot's own, if it is free."""
        taken = {engine.place for engine in self._engines()}
        return min(set(range(self._config.places)) - taken, key=lambda place: (place != slot, place))

    async def free_slot(self, base: RepoRef, fit: Sequence[int], report: LoadReport) -> int | None:
        """One of these slots, free; if need be, its idle engine has left it. `None`: all are busy."""
        awake = [engine for engine in self._engines() if not engine.vacated.is_set()]
        taken = {engine.slot for engine in awake}
        free = [slot for slot in fit if slot not in taken]
        if free and len(self._slots) - len(taken) > self._reserved(base, awake):
            await self._trim(self._config.max_asleep, base, report)
            return free[0]
        candidates = []
        for engine in self._movable():
            idle = await self._idle(engine) if engine.slot in fit else None
            if idle is not None and self._clock() - engine.ready_since >= self._config.min_residency:
                candidates.append((idle, engine.slot, engine))
        if not candidates:
            return None
        idle, slot, engine = max(candidates, key=lambda candidate: candidate[:2])
        if self._config.max_asleep:
            await self._trim(self._config.max_asleep - 1, base, report)
            engine.sleep(self._clock() - idle)
        else:
            engine.stop("room")
        self._evicted(engine, base, report)
        await engine.vacated.wait()
        return slot

    def _movable(self) -> list[Engine]:
        """Those that may make room when they are idle."""
        pinned = set(self._preloaded.values())
        return [e for e in self._engines() if e.state == "ready" and e.is_up and e.base not in pinned]

    async def _idle(self, engine: Engine) -> float | None:
        """Seconds since its last request; `None` while it has any, gets an adapter, or does not say."""
        try:
            status = await engine.client.status()
        except EngineError as error:
            log.warning("engine.status_failed", engine=engine.id, error=str(error))
            return None
        if status.in_flight or engine.adapters_lock.locked():
            return None
        age = self._clock() - engine.ready_since
        return min([age, *(use.idle for use in status.models.values())])

    async def idle_for(self, seconds: float) -> AsyncIterator[Engine]:
        """Those that nobody has used for so long, asleep or not."""
        for engine in self._engines():
            if engine.is_asleep and self._clock() - engine.last_used >= seconds:
                yield engine
        for engine in self._movable():
            idle = await self._idle(engine)
            if idle is not None and idle >= seconds and engine.is_up:
                yield engine

    async def _trim(self, most: int, base: RepoRef, report: LoadReport) -> None:
        """End sleepers, the longest unused first, until there are `most`; `base` does not sleep on."""
        while len(asleep := [e for e in self._engines() if e.sleep_asked.is_set() and e.base != base]) > most:
            engine = min(asleep, key=lambda one: one.last_used)
            engine.stop("room")
            self._evicted(engine, base, report)
            await engine.ended.wait()

    def _evicted(self, engine: Engine, base: RepoRef, report: LoadReport) -> None:
        report.evicted.append(Evicted(repo=str(engine.base), kind="base"))
        log.info(
            "engine.evicted",
            engine=engine.id,
            base=str(engine.base),
            room_for=str(base),
            asked_by=report.asked_by,
        )

    def _reserved(self, base: RepoRef, awake: Sequence[Engine]) -> int:
        """Slots that are kept for preloaded models which have no engine at this moment."""
        running = {engine.base for engine in awake}
        waiting = [repo for repo, pin in self._preloaded.items() if pin is None or pin not in running]
        wanted = self._preloaded.get(base.id, base)
        return len([repo for repo in waiting if repo != base.id or wanted not in (None, base)])
