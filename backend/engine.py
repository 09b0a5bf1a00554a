"""One vLLM process with its lifecycle. Only its owner task, `run`, changes its state.

=========== ============================== =====================================================
state       means                          next
=========== ============================== =====================================================
starting    the process loads the model    ready; failed: it ended, or start_timeout passed
ready       it generated a token           draining: room is needed, or idle; failed: it ended
draining    no new request is let in       stopping: the last one is done, or the time is up
stopping    SIGTERM, then SIGKILL          gone: no process of it is left; its slot is free
failed      it ended by itself             gone; a new start waits for its backoff
=========== ============================== =====================================================

`absent` is an engine that does not exist, `downloading` a base model that is being fetched for one;
neither has a process, so neither is seen here.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import structlog

from backend.engine_client import EngineClient, EngineError
from backend.process import Child, lines
from wire import control
from wire.control import EngineState
from wire.repo import RepoRef

PROBE = 0.1  # seconds between two looks whether it is up
DRAIN = 30.0  # seconds that requests in flight get when an engine makes room
GRACE = 5.0  # seconds between SIGTERM and SIGKILL
POLL = 0.2  # seconds between two looks whether it is drained
TAIL = 40  # lines of its log that are shown when it fails

log = structlog.get_logger()


@dataclass(slots=True)
class Engine:
    """`ended` and `settled` are for others to wait for: it is gone; it is ready or never will be."""

    id: str
    boot: str
    slot: int
    port: int
    base: RepoRef
    client: EngineClient
    start_timeout: float
    clock: Callable[[], float]
    state: EngineState = "starting"
    ready_since: float = 0.0
    adapters: dict[str, RepoRef] = field(default_factory=dict)
    adapters_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _at_once: bool = False
    _tail: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL))

    def describe(self) -> control.Engine:
        """As a proxy sees it."""
        return control.Engine(
            id=self.id,
            boot=self.boot,
            port=self.port,
            base=str(self.base),
            state=self.state,
            adapters=tuple(self.adapters),
        )

    def stop(self, *, at_once: bool) -> None:
        """Ask the owner to end it; `at_once` leaves requests in flight no time. Returns immediately."""
        self._at_once = self._at_once or at_once
        self._stop.set()

    async def run(self, start: Callable[[], Awaitable[Child]]) -> bool:
        """Own the engine from start to end. Returns whether it was asked to end, i.e. did not fail."""
        try:
            child = await start()
        except OSError as error:
            log.warning("engine.start_failed", engine=self.id, error=error.strerror)
            return self._gone("failed")
        reader = asyncio.create_task(self._read_log(child))
        exited = asyncio.create_task(child.wait())
        stopped = asyncio.create_task(self._stop.wait())
        try:
            if await self._becomes_ready(exited, stopped):
                self._become("ready")
                self.ready_since = self.clock()
                self.settled.set()
                await asyncio.wait([exited, stopped], return_when=asyncio.FIRST_COMPLETED)
            asked = stopped.done()
            if asked and self.state == "ready":
                await self._drain(exited)
            self._become("stopping" if asked else "failed")
            if not asked:
                log.error("engine.log_tail", engine=self.id, lines=list(self._tail))
        finally:
            await child.end(GRACE)
            for task in (reader, exited, stopped):
                task.cancel()
            await asyncio.gather(reader, exited, stopped, return_exceptions=True)
            self.ended.set()
            self.settled.set()
        return asked

    async def _becomes_ready(self, exited: asyncio.Task[int], stopped: asyncio.Task[bool]) -> bool:
        probe = asyncio.create_task(self._probe())
        with suppress(TimeoutError):
            async with asyncio.timeout(self.start_timeout):
                await asyncio.wait([probe, exited, stopped], return_when=asyncio.FIRST_COMPLETED)
        ready = probe.done() and not exited.done() and not stopped.done() and probe.result()
        if not probe.done() and not exited.done() and not stopped.done():
            log.error("engine.start_timeout", engine=self.id, seconds=self.start_timeout)
        probe.cancel()
        return ready

    async def _probe(self) -> bool:
        """Up, and one token generated: /health alone answers 200 for engines that die of a request."""
        while not await self.client.is_healthy():  # noqa: ASYNC110  # it is another process
            await asyncio.sleep(PROBE)
        try:
            await self.client.generate(str(self.base))
        except EngineError as error:
            log.warning("engine.first_token_failed", engine=self.id, error=str(error))
            return False
        return True

    async def _drain(self, exited: asyncio.Task[int]) -> None:
        self._become("draining")
        end = self.clock() + (0 if self._at_once else DRAIN)
        try:
            status = await self.client.drain()
            while status.in_flight and self.clock() < end and not exited.done():
                await asyncio.sleep(POLL)
                if self._at_once:
                    return
                status = await self.client.status()
        except EngineError as error:
            log.warning("engine.drain_failed", engine=self.id, error=str(error))

    async def _read_log(self, child: Child) -> None:
        async for raw in lines(child.stdout, 4000):
            line = raw.decode(errors="replace")
            self._tail.append(line)
            log.debug("engine.log", engine=self.id, line=line)

    def _gone(self, state: EngineState) -> bool:
        self._become(state)
        self.ended.set()
        self.settled.set()
        return False

    def _become(self, state: EngineState) -> None:
        self.state = state
        log.info("engine.state", engine=self.id, base=str(self.base), state=state)
