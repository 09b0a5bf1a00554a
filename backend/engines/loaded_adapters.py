"""Which adapters an engine holds: puts them in, and takes out what was not used for longest."""

import asyncio
import time
from dataclasses import dataclass

import structlog

from hubgate.backend.engines.client import EngineError, SilentEngineError
from hubgate.backend.engines.engine import Engine
from hubgate.backend.engines.scheduler import LoadReport
from hubgate.backend.metrics import Metrics
from hubgate.backend.plugin.traffic import ModelUse
from hubgate.backend.store.store import Store
from hubgate.wire.control_api import Evicted, LoadFailed
from hubgate.wire.repo import RepoRef

AGAIN = 5  # seconds, after which an engine that ended may be there again

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Loaded:
    """The engine answers for the adapter. `fresh`: it did not before."""

    fresh: bool


class LoadedAdapters:
    """An adapter's files stay in the store for as long as its name is loaded: vLLM reads them again."""

    def __init__(self, store: Store, metrics: Metrics, capacity: int) -> None:
        self._store = store
        self._metrics = metrics
        self._capacity = capacity

    async def load(self, engine: Engine, adapter: RepoRef, report: LoadReport) -> Loaded | LoadFailed:
        """Put an admitted adapter, which the caller holds in the store, into a ready engine."""
        async with engine.adapters_lock:
            name = str(adapter)
            if engine.state != "ready":  # it made room for another base while we waited for our turn
                message = f"{adapter.id}: its engine made room for another model"
                return LoadFailed(code="no_capacity", message=message, repo=name, retry_after=AGAIN)
            if name in engine.adapters:
                return Loaded(fresh=False)
            if len(engine.adapters) >= self._capacity and not await self._evict_one(engine, report):
                message = "all places for adapters are in use"
                return LoadFailed(code="no_capacity", message=message, repo=name, retry_after=10)
            path = self._store.hold(adapter)
            started = time.monotonic()
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
            seconds = time.monotonic() - started
            engine.adapters[name] = adapter
        self._metrics.cold_start("adapter", "ok")
        log.info("adapter.loaded", engine=engine.id, adapter=name, asked_by=report.asked_by, seconds=seconds)
        return Loaded(fresh=True)

    async def _evict_one(self, engine: Engine, report: LoadReport) -> bool:
        """Take out the adapter that was idle for longest; `False` while all are busy.

        The engine refuses new requests for it, waits for those in flight, and lets go of its name and
        its weights; only then may its files make room as well. If that fails, it stays as it was.
        """
        try:
            status = await engine.client.status()
            # An adapter that was never used is idle since it was loaded, see `Traffic.touch`.
            unknown = ModelUse(in_flight=0, idle=0.0)
            uses = {name: status.models.get(name, unknown) for name in engine.adapters}
            quiet = {name: use.idle for name, use in uses.items() if not use.in_flight}
            if not quiet:
                return False
            victim = max(quiet, key=lambda name: quiet[name])
            await engine.client.unload(victim)
        except EngineError as error:
            log.warning("adapter.evict_failed", engine=engine.id, error=str(error))
            return False
        self._store.release(engine.adapters.pop(victim))
        report.evicted.append(Evicted(repo=victim, kind="adapter"))
        self._metrics.adapter_evicted()
        log.info("adapter.evicted", engine=engine.id, adapter=victim, asked_by=report.asked_by)
        return True
