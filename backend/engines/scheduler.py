"""Where an engine runs, and which other one leaves for it: to sleep, or for good.

An engine keeps the slot at which it was started, since its devices are fixed then. In a slot one engine is
awake at a time, and any number of others sleep. Each has a place, which is its port and its name.

An idle engine leaves if nobody used it for `min_residency`, or all who did wait for another one themselves:
else one request a minute would be enough to end another's in its idle moments. One that is used leaves when
its tenure is over, if somebody waits: `max_tenure`, or the part of it that its users are of those who wait.
"""

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from hubgate.backend.engines.client import EngineError
from hubgate.backend.engines.engine import Engine
from hubgate.backend.fairness.line import OPERATOR
from hubgate.backend.fairness.shares import Why
from hubgate.backend.gpu_placement import Devices, fitting, need
from hubgate.backend.settings import Engines
from hubgate.wire.control_api import Evicted
from hubgate.wire.repo import RepoRef

log = structlog.get_logger()


def _always() -> bool:
    return True


def _nowhere() -> int | None:
    return None


@dataclass(frozen=True, slots=True)
class Use:
    """Of an engine: seconds since its last request, `None` while it has any, and who used it lately."""

    idle: float | None
    users: Collection[str]


@dataclass(slots=True)
class LoadReport:
    """What one caller's load does to engines, for the audit of whoever asked: a pseudonym."""

    asked_by: str
    is_present: Callable[[], bool] = _always  # whether they still wait
    position: Callable[[], int | None] = _nowhere  # in the line for an engine
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
        *,
        evicted: Callable[[Why], object] = lambda _: None,
    ) -> None:
        self._config = config
        self._count = evicted
        self._slots = slots
        self._preloaded = preloaded
        self._engines = engines
        self._clock = clock

    def replace(self, config: Engines) -> None:
        """Judge by other settings from now on."""
        self._config = config

    def fitting(self, base: RepoRef) -> list[int]:
        """The slots with devices enough for it, the best first."""
        return fitting(self._slots, need(str(base), self._config.args(base.id)))

    def place(self, slot: int) -> int:
        """A place that no engine has: the slot's own, if it is free."""
        taken = {engine.place for engine in self._engines()}
        return min(set(range(self._config.places)) - taken, key=lambda place: (place != slot, place))

    def within_reach(self, base: RepoRef, fit: Sequence[int]) -> list[int]:
        """Those of these slots that it can have one day: not those of preloaded models."""
        awake = [engine for engine in self._engines() if not engine.vacated.is_set()]
        pinned, taken = set(self._preloaded.values()), {engine.slot for engine in awake}
        is_free = len(self._slots) - len(taken) > self._reserved(base, awake)
        lent = {engine.slot for engine in awake if engine.base not in pinned}
        return [slot for slot in fit if slot in lent or (is_free and slot not in taken)]

    async def free_slot(
        self, base: RepoRef, fit: Sequence[int], report: LoadReport, waiting: Collection[str] | None = None
    ) -> int | None:
        """One of these slots, free; if need be, its idle engine has left it. `None`: all are busy.

        Then one whose tenure is over is asked to leave, in its own time, where it is said who waits.
        """
        awake = [engine for engine in self._engines() if not engine.vacated.is_set()]
        taken = {engine.slot for engine in awake}
        free = [slot for slot in fit if slot not in taken]
        if free and len(self._slots) - len(taken) > self._reserved(base, awake):
            await self._trim(self._config.max_asleep, base, report)
            return free[0]
        if not report.is_present():  # nobody makes room for a load that merely lingers
            return None
        unused, overdue = [], []
        for engine in self._movable():
            age = self._clock() - engine.ready_since
            if engine.slot not in fit or age < self._config.min_residency:
                continue
            use = await self._use(engine)
            if use is None:
                continue
            # Those who wait for another one give theirs up, to whoever is next.
            own = report.asked_by == OPERATOR or set(use.users) <= {report.asked_by, *(waiting or ())}
            if use.idle is not None and (own or use.idle >= self._config.min_residency):
                unused.append((use.idle, engine.slot, engine, own))
            if waiting is not None and age >= self._tenure(use.users, waiting):
                overdue.append((age, engine.slot, engine))
        if unused:
            idle, slot, engine, own = max(unused, key=lambda candidate: candidate[:2])
            await self._leave(engine, base, report, "own" if own else "unused", self._clock() - idle)
            await engine.vacated.wait()
            return slot
        if overdue and not any(self._leaves(engine) for engine in awake):
            _, _, engine = max(overdue, key=lambda candidate: candidate[:2])
            engine.grace = self._config.tenure_grace
            await self._leave(engine, base, report, "turn", self._clock())
        return None

    async def _leave(
        self, engine: Engine, base: RepoRef, report: LoadReport, why: Why, last_used: float
    ) -> None:
        """Ask it to sleep, or to end."""
        if self._config.max_asleep:
            await self._trim(self._config.max_asleep - 1, base, report)
            engine.sleep(last_used)
        else:
            engine.stop("tenure" if why == "turn" else "room")
        self._evicted(engine, base, report, why)

    def _leaves(self, engine: Engine) -> bool:
        return engine.stop_asked.is_set() or engine.sleep_asked.is_set()

    def _tenure(self, users: Collection[str], waiting: Collection[str]) -> float:
        """How long an engine runs although others wait, who are not among its users."""
        others = len(set(waiting) - set(users))
        part = len(users) / others if others else 1
        return max(self._config.min_residency, self._config.max_tenure * min(part, 1))

    def _movable(self) -> list[Engine]:
        """Those that may make room when they are idle."""
        pinned = set(self._preloaded.values())
        return [e for e in self._engines() if e.state == "ready" and e.is_up and e.base not in pinned]

    async def _idle(self, engine: Engine) -> float | None:
        """Seconds since its last request; `None` while it has any, gets an adapter, or does not say."""
        use = await self._use(engine)
        return use.idle if use is not None else None

    async def _use(self, engine: Engine) -> Use | None:
        """What it is used for; `None` if it does not say."""
        try:
            status = await engine.client.status()
        except EngineError as error:
            log.warning("engine.status_failed", engine=engine.id, error=str(error))
            return None
        now, lately = self._clock(), self._config.min_residency
        age = now - engine.ready_since
        idle = min([age, *(use.idle for use in status.models.values())])
        users = {who for use in status.models.values() for who, at in use.users.items() if at < lately}
        # Where the engine does not say whose requests they were, they are of those who had it loaded last.
        users = users or engine.askers(now, lately)
        is_busy = status.in_flight or engine.adapters_lock.locked()
        return Use(None if is_busy else idle, users)

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
            self._evicted(engine, base, report, "unused")
            await engine.ended.wait()

    def _evicted(self, engine: Engine, base: RepoRef, report: LoadReport, why: Why) -> None:
        self._count(why)
        report.evicted.append(Evicted(repo=str(engine.base), kind="base"))
        log.info(
            "engine.evicted",
            engine=engine.id,
            base=str(engine.base),
            room_for=str(base),
            asked_by=report.asked_by,
            reason=why,
        )

    def _reserved(self, base: RepoRef, awake: Sequence[Engine]) -> int:
        """Slots that are kept for preloaded models which have no engine at this moment."""
        running = {engine.base for engine in awake}
        waiting = [repo for repo, pin in self._preloaded.items() if pin is None or pin not in running]
        wanted = self._preloaded.get(base.id, base)
        return len([repo for repo in waiting if repo != base.id or wanted not in (None, base)])
