"""One vLLM process with its lifecycle. Only its owner task, `run`, changes its state.

=========== ============================== =====================================================
state       means                          next
=========== ============================== =====================================================
starting    it waits for its GPU's memory, ready; failed: no memory, it ended, no first token,
            then the process loads         or start_timeout passed
ready       it generated a token           draining: room is needed, idle, or a refresh;
                                           failed: it ended by itself, or hangs
draining    no new request is let in       stopping: the last one is done, or the time is up
stopping    SIGTERM, then SIGKILL          absent: no process of it is left; its slot is free
failed      it ended against our will      absent; a new start waits for its backoff
=========== ============================== =====================================================

`absent` is an engine that does not exist, `downloading` a base model that is being fetched for one;
neither has a process, so neither is seen here.
"""

import asyncio
import signal
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import structlog

from backend.engine_client import EngineClient, EngineError
from backend.gpus import NoMemoryError
from backend.metrics import End
from backend.process import Child, lines
from backend.watchdog import until_hung
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
    """`ended` and `settled` are for others to wait for: it is gone; it is ready or never will be.

    `asked_by` is the pseudonym of the caller who had it started. `end` says why it ended, `failure`
    how, in words that are fit for callers; both are empty before.
    """

    id: str
    boot: str
    slot: int
    port: int
    base: RepoRef
    client: EngineClient
    asked_by: str
    start_timeout: float
    hang_timeout: float
    clock: Callable[[], float]
    state: EngineState = "starting"
    ready_since: float = 0.0
    end: End | None = None
    failure: str = ""
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

    def stop(self, why: End) -> None:
        """Ask the owner to end it; a shutdown leaves requests in flight no time. Returns immediately."""
        self.end = self.end or why
        self._at_once = self._at_once or why == "shutdown"
        self._stop.set()

    async def run(
        self, prepare: Callable[[], Awaitable[None]], start: Callable[[], Awaitable[Child]]
    ) -> None:
        """Own the engine from start to end. `prepare` waits until it may start: see `NoMemoryError`."""
        stopped = asyncio.create_task(self._stop.wait())
        try:
            if await self._is_prepared(prepare, stopped):
                await self._run(await start(), stopped)
            elif self.end is None:
                self._fail("not_started", self.failure)
            else:
                self._become("stopping")
        except OSError as error:
            log.warning("engine.start_failed", engine=self.id, error=error.strerror)
            self._fail("not_started", "its program could not be started")
        finally:
            stopped.cancel()
            self.ended.set()
            self.settled.set()

    async def _is_prepared(self, prepare: Callable[[], Awaitable[None]], stopped: asyncio.Task[bool]) -> bool:
        preparing = asyncio.ensure_future(prepare())
        try:
            await asyncio.wait([preparing, stopped], return_when=asyncio.FIRST_COMPLETED)
            if not preparing.done() or stopped.done():
                return False
            preparing.result()
        except NoMemoryError as error:
            self.failure = str(error)
            return False
        finally:
            preparing.cancel()
            await asyncio.gather(preparing, return_exceptions=True)
        return True

    async def _run(self, child: Child, stopped: asyncio.Task[bool]) -> None:
        reader = asyncio.create_task(self._read_log(child))
        exited = asyncio.create_task(child.wait())
        hung = asyncio.create_task(self._until_hung())
        try:
            if await self._becomes_ready(exited, stopped):
                self.ready_since = self.clock()
                self._become("ready")
                self.settled.set()
                await asyncio.wait([exited, stopped, hung], return_when=asyncio.FIRST_COMPLETED)
            if stopped.done():
                if self.state == "ready" and not self._at_once:
                    await self._drain(exited)
                self._become("stopping")
            else:
                self._fail(*self._reason(exited, hung))
        finally:
            await child.end(GRACE)
            for task in (reader, exited, hung):
                task.cancel()
            await asyncio.gather(reader, exited, hung, return_exceptions=True)

    def _reason(self, exited: asyncio.Task[int], hung: asyncio.Task[None]) -> tuple[End, str]:
        end: End = "crashed" if self.state == "ready" else "not_started"
        if exited.done():
            return end, f"it ended by itself, with {_status(exited.result())}"
        if hung.done():
            return "hung", "it answered nothing any more"
        return end, self.failure or "it did not generate a first token"

    async def _until_hung(self) -> None:
        await self.settled.wait()
        await until_hung(self.client, str(self.base), self.hang_timeout, self.clock)

    async def _becomes_ready(self, exited: asyncio.Task[int], stopped: asyncio.Task[bool]) -> bool:
        probe = asyncio.create_task(self._probe())
        with suppress(TimeoutError):
            async with asyncio.timeout(self.start_timeout):
                await asyncio.wait([probe, exited, stopped], return_when=asyncio.FIRST_COMPLETED)
        ready = probe.done() and not exited.done() and not stopped.done() and probe.result()
        if not probe.done() and not exited.done() and not stopped.done():
            self.failure = f"it was not ready after {self.start_timeout:g} s"
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
        end = self.clock() + DRAIN
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

    def _fail(self, end: End, failure: str) -> None:
        self.end, self.failure = end, failure
        self._become("failed")
        log.error("engine.log_tail", engine=self.id, lines=list(self._tail))

    def _become(self, state: EngineState) -> None:
        """Every change of state is an event of the operator's log: who caused it, and why."""
        self.state = state
        why = {"reason": self.end, "failure": self.failure or None} if self.end else {}
        log.info(
            "engine.state", engine=self.id, base=str(self.base), state=state, asked_by=self.asked_by, **why
        )


def _status(status: int) -> str:
    """The exit status of the guardian (128 + N for signal N), or of what was left of it (-N)."""
    number = -status if status < 0 else status - 128
    if number == signal.SIGKILL:
        return "SIGKILL, as when the machine's memory runs out"
    return f"signal {number}" if number > 0 else f"status {status}"
