"""Which adapters an engine holds: puts them in, and takes out those of whoever has to make room.

Whose that is, `hubgate.backend.fairness.shares` says. An adapter belongs to those who had it loaded lately,
and to those whose requests the engine has seen.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from hubgate.backend.engines.client import EngineError, SilentEngineError
from hubgate.backend.engines.engine import AdapterUse, Engine
from hubgate.backend.engines.scheduler import LoadReport
from hubgate.backend.fairness.shares import Shares, Thing, Victim
from hubgate.backend.metrics import Metrics
from hubgate.backend.plugin.traffic import ModelUse, Status
from hubgate.backend.store.store import Store
from hubgate.wire.control_api import Evicted, LoadFailed
from hubgate.wire.repo import RepoRef

AGAIN = 5  # seconds, after which an engine that ended may be there again
BUSY = 10  # seconds, after which a place may be free
STUCK = 120.0  # seconds, for which others are tried before an adapter that was waited for in vain
LONGEST = 120  # seconds; nobody is told to wait longer

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Loaded:
    """The engine answers for the adapter. `fresh`: it did not before."""

    fresh: bool


class LoadedAdapters:
    """An adapter's files stay in the store for as long as its name is loaded: vLLM reads them again."""

    def __init__(
        self,
        store: Store,
        metrics: Metrics,
        capacity: int,
        residency: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._capacity = capacity
        self._residency = residency
        self._clock = clock

    def replace(self, residency: float) -> None:
        """Another number of seconds for which an adapter is its users'."""
        self._residency = residency

    async def load(self, engine: Engine, adapter: RepoRef, report: LoadReport) -> Loaded | LoadFailed:
        """Put an admitted adapter, which the caller holds in the store, into a ready engine.

        Where all places are in use and somebody has more than their share, one of theirs is closed to new
        requests, and waited for once. Others' loads go on meanwhile.
        """
        async with engine.adapters_lock:
            outcome = await self._have(engine, adapter, report)
        if not isinstance(outcome, Victim):
            return outcome
        with _promised(engine):
            await self._drain(engine, outcome, report)
            await engine.adapters_lock.acquire()
        try:
            outcome = await self._have(engine, adapter, report)
        finally:
            engine.adapters_lock.release()
        return self._full(adapter, entitled=True) if isinstance(outcome, Victim) else outcome

    async def _have(
        self, engine: Engine, adapter: RepoRef, report: LoadReport
    ) -> Loaded | LoadFailed | Victim[str]:
        """Load it, with the engine's lock; or what has to be waited for."""
        name = str(adapter)
        if engine.state != "ready":  # it made room for another base while we waited for our turn
            message = f"{adapter.id}: its engine made room for another model"
            return LoadFailed(code="no_capacity", message=message, repo=name, retry_after=AGAIN)
        if name in engine.adapters:
            use = engine.adapter_uses[name]
            if use.leaves:
                return self._full(adapter, entitled=False)
            use.asked(report.asked_by, self._clock(), self._residency)
            return Loaded(fresh=False)
        if len(engine.adapters) + engine.promised >= self._capacity:
            blocked = await self._make_room(engine, adapter, report)
            if blocked is not None:
                return blocked
        return await self._put_in(engine, adapter, report)

    async def _put_in(self, engine: Engine, adapter: RepoRef, report: LoadReport) -> Loaded | LoadFailed:
        name, path, started = str(adapter), self._store.hold(adapter), time.monotonic()
        try:
            await engine.client.load(name, path)
        except EngineError as error:
            self._store.release(adapter)
            log.warning("adapter.load_failed", engine=engine.id, adapter=name, error=str(error))
            self._metrics.cold_start("adapter", "failed")
            message = f"{adapter.id}: the engine could not load this adapter"
            # What an engine refused it refuses again; one that fell silent is started anew.
            again = AGAIN if isinstance(error, SilentEngineError) else None
            return LoadFailed(code="engine_failed", message=message, repo=name, retry_after=again)
        except asyncio.CancelledError:
            self._store.release(adapter)
            raise
        if engine.ended.is_set():  # its adapters were released before this one was among them
            self._store.release(adapter)
            message = f"{adapter.id}: the engine ended while it loaded this adapter"
            return LoadFailed(code="engine_failed", message=message, repo=name, retry_after=AGAIN)
        engine.adapters[name] = adapter
        engine.adapter_uses[name] = use = AdapterUse(self._clock())
        use.asked(report.asked_by, self._clock(), self._residency)
        self._metrics.cold_start("adapter", "ok")
        seconds = time.monotonic() - started
        log.info("adapter.loaded", engine=engine.id, adapter=name, asked_by=report.asked_by, seconds=seconds)
        return Loaded(fresh=True)

    async def _make_room(
        self, engine: Engine, adapter: RepoRef, report: LoadReport
    ) -> LoadFailed | Victim[str] | None:
        """Take one out that is idle, and so make room; else what is in the way."""
        try:
            things = self._things(engine, await engine.client.status())
        except EngineError as error:
            log.warning("adapter.evict_failed", engine=engine.id, error=str(error))
            return self._full(adapter, entitled=True)
        shares = Shares(things, self._capacity, report.asked_by, 1, self._residency)
        victim = shares.victim()
        if victim is not None:
            gone = await self._take_out(engine, victim, report)
            return None if gone else self._full(adapter, entitled=True)
        leaving = [name for name, use in engine.adapter_uses.items() if use.leaves]
        since = self._clock() - STUCK
        stuck = [name for name, use in engine.adapter_uses.items() if use.stuck > since]
        waited_for = shares.in_use(leaving + stuck) or shares.in_use(leaving)
        return waited_for or self._full(adapter, shares.is_entitled, shares.until_unused())

    async def _take_out(self, engine: Engine, victim: Victim[str], report: LoadReport) -> bool:
        """The engine lets go of its name and its weights; only then may its files make room as well.

        It refuses new requests for it meanwhile, and waits for those in flight. If that fails, all stays as
        it was.
        """
        name = victim.thing.key
        try:
            await engine.client.unload(name)
        except EngineError as error:
            log.warning("adapter.evict_failed", engine=engine.id, adapter=name, error=str(error))
            return False
        if name not in engine.adapters:  # the engine has ended, or sleeps
            return False
        self._store.release(engine.adapters.pop(name))
        del engine.adapter_uses[name]
        report.evicted.append(Evicted(repo=name, kind="adapter"))
        self._metrics.evicted("adapter", victim.why)
        log.info(
            "adapter.evicted", engine=engine.id, adapter=name, asked_by=report.asked_by, reason=victim.why
        )
        return True

    async def _drain(self, engine: Engine, victim: Victim[str], report: LoadReport) -> None:
        """Take one out that is in use. Once begun it goes to its end, whether anybody waits or not."""
        use = engine.adapter_uses[victim.thing.key]
        use.leaves = True
        await asyncio.shield(asyncio.create_task(self._leave(engine, use, victim, report)))

    async def _leave(self, engine: Engine, use: AdapterUse, victim: Victim[str], report: LoadReport) -> None:
        try:
            if not await self._take_out(engine, victim, report):
                use.stuck = self._clock()
        finally:
            use.leaves = False

    def _things(self, engine: Engine, status: Status) -> list[Thing[str]]:
        """The adapters, and who used them. One that was never used is idle since it was loaded."""
        unknown, now = ModelUse(in_flight=0, idle=0.0), self._clock()
        things = []
        for name, own in engine.adapter_uses.items():
            seen = status.models.get(name, unknown)
            users = {who: now - at for who, at in own.askers.items()}
            # Whoever had it loaded last, where the engine does not say whose requests they were.
            told = seen.users or {min(users, key=lambda who: users[who]): seen.idle}
            for who, idle in told.items():
                users[who] = min(idle, users.get(who, idle))
            busy = seen.in_flight + own.leaves
            things.append(Thing(name, 1, users, seen.idle, now - own.since, busy))
        return things

    def _full(self, adapter: RepoRef, entitled: bool, wait: float | None = None) -> LoadFailed:
        """Why there is no place, and when to come again."""
        message = "all places for adapters are in use"
        if not entitled:
            message = "your share of the places for adapters is used, and others use theirs"
        again = BUSY if wait is None else int(min(max(wait, BUSY), LONGEST))
        name = str(adapter)
        return LoadFailed(
            code="no_capacity", message=f"{adapter.id}: {message}", repo=name, retry_after=again
        )


@contextmanager
def _promised(engine: Engine) -> Iterator[None]:
    """The next place that becomes free is somebody's already."""
    engine.promised += 1
    try:
        yield
    finally:
        engine.promised -= 1
