"""The owner task of an engine: takes it from state to state, until nothing of its process is left.

It is the only one to change the state, but for `Engine.wake`, which takes the slot in the same step.
"""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import structlog

from hubgate.backend.engines.client import EngineError
from hubgate.backend.engines.engine import Engine
from hubgate.backend.engines.first_cause import FirstCause
from hubgate.backend.engines.gpus import NoMemoryError
from hubgate.backend.engines.watchdog import until_hung
from hubgate.backend.metrics import End, Metrics
from hubgate.backend.processes.child import Child, lines
from hubgate.wire.repo import RepoRef

PROBE = 0.1  # seconds between two looks whether it is up
GRACE = 5.0  # seconds between SIGTERM and SIGKILL
POLL = 0.2  # seconds between two looks whether it is drained
LAST_WORDS = 2.0  # seconds that reading what a dead one printed may take

TakeTurn = Callable[[], Awaitable[Callable[[], None]]]  # see `hubgate.backend.engines.gpus.Turns`

log = structlog.get_logger()


class _StopError(Exception):
    """Somebody asked for its end."""


class _FailureError(Exception):
    """It cannot go on. The text is fit for callers."""


class EngineLifecycle:
    """Of one engine. `start` starts its process, `release` lets the store have an adapter's files back."""

    def __init__(
        self,
        engine: Engine,
        metrics: Metrics,
        *,
        take_turn: TakeTurn,
        start: Callable[[], Awaitable[Child]],
        release: Callable[[RepoRef], None],
    ) -> None:
        self._engine = engine
        self._metrics = metrics
        self._take_turn = take_turn
        self._start = start
        self._release = release
        self._end_turn: Callable[[], None] = lambda: None
        self._blame: End = "not_started"  # why it ended, if it ends against our will now
        self._rising: Literal["base", "wake"] | None = "base"
        self._cause = FirstCause()
        self._end_tasks: list[asyncio.Task[Any]] = []  # it was asked to stop; its process has exited

    async def run(self) -> None:
        """From the wait for its GPU to the last of its process."""
        engine, child = self._engine, None
        self._end_tasks.append(asyncio.create_task(engine.stop_asked.wait()))
        reader = None
        try:
            await self._have_turn()
            child = await self._start()
            self._end_tasks.append(asyncio.create_task(child.wait()))
            reader = asyncio.create_task(self._read_log(child))
            await self._live()
        except _StopError:
            engine.become("stopping")
        except _FailureError as failure:
            await self._hear_out(reader)
            engine.fail(self._blame, str(failure), self._cause.found() if self._rising == "base" else "")
        except OSError as error:
            log.warning("engine.start_failed", engine=engine.id, error=error.strerror)
            engine.fail("not_started", "its program could not be started")
        finally:
            if child is not None:
                await child.end(GRACE)
            await _cancelled(*self._end_tasks, *([reader] if reader else []))
            self._settle("failed")
            engine.conclude()

    def forget_adapters(self) -> None:
        """They are not in the engine any more; the store may have their files."""
        for adapter in self._engine.adapters.values():
            self._release(adapter)
        self._engine.adapters.clear()
        self._engine.adapter_uses.clear()

    async def _live(self) -> None:
        """Forever. It ends with `_StopError` or `_FailureError`."""
        await self._start_or_wake(self._until_healthy)
        while True:
            await self._serve()
            await self._fall_asleep()
            await self._until(asyncio.create_task(self._engine.wake_asked.wait()))
            self._engine.wake_asked.clear()
            self._blame, self._rising = "not_woken", "wake"
            await self._have_turn()
            await self._start_or_wake(self._engine.client.wake)

    async def _until(self, *tasks: asyncio.Task[Any]) -> None:
        """Wait for one of these tasks; none of them goes on then."""
        try:
            await asyncio.wait([*tasks, *self._end_tasks], return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _cancelled(*tasks)
        stopped, *exited = self._end_tasks
        if stopped.done():
            raise _StopError
        if exited and exited[0].done():
            raise _FailureError(f"it ended by itself, with {_status(exited[0].result())}")

    async def _have_turn(self) -> None:
        """Its GPU's memory is free, and nobody else starts on it: until `_settle`."""

        async def take() -> None:
            self._end_turn = await self._take_turn()

        taking = asyncio.create_task(take())
        await self._until(taking)
        try:
            taking.result()
        except NoMemoryError as error:
            raise _FailureError(str(error)) from None

    async def _start_or_wake(self, rise: Callable[[], Awaitable[None]]) -> None:
        """One generated token is the proof: /health alone answers 200 for engines that die of a request."""
        engine = self._engine
        proving = asyncio.create_task(self._prove(rise))
        try:
            async with asyncio.timeout(engine.start_timeout):
                await self._until(proving)
            proving.result()
        except TimeoutError:
            raise _FailureError(f"it was not ready after {engine.start_timeout:g} s") from None
        except EngineError as error:
            log.warning("engine.first_token_failed", engine=engine.id, error=str(error))
            raise _FailureError("it did not generate a first token") from None
        self._blame = "crashed"
        engine.ready_since = engine.clock()
        engine.become("ready")
        self._settle("ok")
        engine.settled.set()

    async def _prove(self, rise: Callable[[], Awaitable[None]]) -> None:
        await rise()
        await self._engine.client.generate(str(self._engine.base))

    async def _until_healthy(self) -> None:
        while not await self._engine.client.is_healthy():  # noqa: ASYNC110  # it is another process
            await asyncio.sleep(PROBE)

    def _settle(self, result: Literal["ok", "failed"]) -> None:
        """Its GPU's turn is over as soon as it holds its memory, or never will."""
        if self._rising is not None:
            self._metrics.cold_start(self._rising, result)
            self._rising = None
        self._end_turn()

    async def _serve(self) -> None:
        """Until it is to sleep. One that sleeps is not watched: it answers nothing, and should not."""
        engine = self._engine
        hung = asyncio.create_task(
            until_hung(engine.client, str(engine.base), engine.hang_timeout, engine.clock)
        )
        try:
            await self._until(hung, asyncio.create_task(engine.sleep_asked.wait()))
        except _StopError:
            if not engine.at_once:
                await self._drain()
            raise
        if not hung.cancelled():
            self._blame = "hung"
            raise _FailureError("it answered nothing any more")

    async def _drain(self) -> None:
        """Let nothing new in, and what is in flight end, for at most its `grace`."""
        engine, exited = self._engine, self._end_tasks[1]
        engine.become("draining")
        end = engine.clock() + engine.grace
        try:
            status = await engine.client.drain()
            while status.in_flight and engine.clock() < end and not exited.done():
                await asyncio.sleep(POLL)
                if engine.at_once:
                    return
                status = await engine.client.status()
        except EngineError as error:
            log.warning("engine.drain_failed", engine=engine.id, error=str(error))

    async def _fall_asleep(self) -> None:
        """Give its slot free. An engine that cannot sleep makes room by its end."""
        await self._drain()
        sleeping = asyncio.create_task(self._sleep())
        await self._until(sleeping)
        try:
            sleeping.result()
        except EngineError as error:
            log.warning("engine.sleep_failed", engine=self._engine.id, error=str(error))
            self._engine.stop("room")
            raise _StopError from None
        self._engine.become("asleep")
        self._engine.vacated.set()

    async def _sleep(self) -> None:
        async with self._engine.adapters_lock:  # what is being loaded ends first
            await self._engine.client.sleep()
            self.forget_adapters()

    async def _hear_out(self, reader: asyncio.Task[None] | None) -> None:
        """Read what a process that ended left in its pipe, the reason among it."""
        if reader is not None and len(self._end_tasks) > 1 and self._end_tasks[1].done():
            await asyncio.wait({reader}, timeout=LAST_WORDS)

    async def _read_log(self, child: Child) -> None:
        async for raw in lines(child.stdout, 4000):
            line = raw.decode(errors="replace")
            self._engine.tail.append(line)
            if self._rising == "base":  # later it has seen requests
                self._cause.read(line)
            log.debug("engine.log", engine=self._engine.id, line=line)


async def _cancelled(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _status(status: int) -> str:
    """The exit status of the reaper (128 + N for signal N), or of what was left of it (-N)."""
    number = -status if status < 0 else status - 128
    if number == signal.SIGKILL:
        return "SIGKILL, as when the machine's memory runs out"
    return f"signal {number}" if number > 0 else f"status {status}"
