"""The load generator and the fake engine, against each other and against faults."""

import asyncio
import itertools
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bench import stream
from bench.client import Caller, LoadError
from bench.gauge import cpu_seconds, pin, rss_bytes
from bench.load import Order, percentile, run
from bench.messages import ANSWER, COMPLETION, LOCAL, MODELS, STREAM_END, chat, post
from bench.upstream import Connection, Ticker
from tests.fakes.answers import completion, dies, raw, refusal, silent, whole
from tests.fakes.engine import RawEngine

OURS = (os.getpid(),)


@asynccontextmanager
async def _upstream() -> AsyncIterator[int]:
    ticker = Ticker(0.002)
    server = await asyncio.get_running_loop().create_server(lambda: Connection(ticker), LOCAL, 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_every_plain_answer_is_counted() -> None:
    """Requests, bytes and times of all connections come together."""
    async with _upstream() as port:
        seen = await run(Order(kind="call", port=port, pids=OURS, connections=3, count=50, seconds=60))
    assert seen.requests == 50
    assert seen.bytes > 50 * len(COMPLETION)
    assert 0 < seen.p50 <= seen.p99 <= seen.worst <= seen.seconds


async def test_each_of_several_tokens_is_used_once() -> None:
    """A cold token is cold once."""
    async with RawEngine.start() as engine:
        engine.always(completion())
        order = Order(
            kind="call", port=engine.port, pids=(), tokens=("a", "b", "c"), connections=2, seconds=60
        )
        seen = await run(order)
        sent = [request.header("authorization") for request in engine.requests]
    assert seen.requests == 3
    assert sorted(sent, key=str) == ["Bearer a", "Bearer b", "Bearer c"]


async def test_a_large_body_arrives_whole() -> None:
    """The fake engine answers a body only when all of it has come."""
    async with _upstream() as port:
        seen = await run(Order(kind="call", port=port, pids=(), size=1_000_000, count=2, seconds=60))
    assert seen.requests == 2


async def test_streams_are_counted_inside_the_window() -> None:
    """The window begins when every stream has begun, so it holds fewer events than were sent, never more."""
    async with _upstream() as port:
        order = Order(kind="stream", port=port, pids=OURS, connections=4, events=30, timed=True)
        seen = await run(order)
    assert seen.requests == 4
    assert 0 < seen.events <= 4 * 29
    assert seen.cpu > 0
    assert 0 < seen.p50 <= seen.worst


async def test_idle_streams_stay_open() -> None:
    """All streams are open at once when memory is read."""
    async with _upstream() as port:
        seen = await run(Order(kind="hold", port=port, pids=OURS, connections=150))
    assert seen.requests == 150
    assert seen.rss > 0


CHUNKED = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"


async def test_a_body_in_chunks_is_answered_once() -> None:
    """However large and wherever it is cut; and the next request on the connection is one of its own."""
    async with _upstream() as port:
        reader, writer = await asyncio.open_connection(LOCAL, port)
        for piece in (CHUNKED + b"1\r\nx\r\n" * 100_000, b"0\r", b"\n\r\n"):
            writer.write(piece)
            await writer.drain()
        assert await reader.readexactly(len(ANSWER)) == ANSWER
        writer.write(b"GET /v1/models HTTP/1.1\r\n\r\n")
        assert await reader.readexactly(len(MODELS)) == MODELS
        writer.close()


async def test_a_stream_is_asked_for_in_chunks_too() -> None:
    """A proxy that does not know the length of what it sends on gets what its caller wanted."""
    body = chat(events=3)
    async with _upstream() as port:
        reader, writer = await asyncio.open_connection(LOCAL, port)
        writer.write(CHUNKED + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
        stream.check([(0, await reader.readuntil(STREAM_END))], 3)
        writer.close()


@pytest.mark.parametrize("kind", ["call", "stream", "hold", "attacked"])
@pytest.mark.parametrize(
    "answer", [refusal(500), raw(whole(503, COMPLETION)), dies()], ids=["500", "503 with an answer", "dies"]
)
async def test_no_fault_is_silent(kind: str, answer: object) -> None:
    """An error status or a closed connection ends the round, whatever it was to measure."""
    async with RawEngine.start() as engine:
        engine.always(answer)  # type: ignore[arg-type]  # one of the answers above
        order = Order(kind=kind, port=engine.port, pids=(), connections=2, attack="brackets")  # type: ignore[arg-type]
        with pytest.raises(LoadError):
            await run(order)


async def test_an_answer_of_another_kind_is_a_fault() -> None:
    """A 200 that is not the upstream's answer does not count."""
    async with RawEngine.start() as engine:
        engine.always(completion())
        with pytest.raises(LoadError):
            await run(Order(kind="call", port=engine.port, pids=(), marker="something else"))


async def test_a_proxy_that_does_not_keep_connections_is_not_measured() -> None:
    """Connections are kept by all, or the figures would not compare."""
    async with RawEngine.start() as engine:
        engine.always(raw(whole(200, COMPLETION), close=True))
        with pytest.raises(LoadError, match="closed"):
            await run(Order(kind="call", port=engine.port, pids=(), warm=0.0))


async def test_a_connection_closed_between_two_phases_is_noticed() -> None:
    """It fails at once, and does not wait for an answer that cannot come."""
    async with RawEngine.start() as engine:
        engine.always(raw(whole(200, COMPLETION), close=True))
        caller = Caller(itertools.repeat(post(chat())), b"finish_reason")
        await asyncio.get_running_loop().create_connection(lambda: caller, LOCAL, engine.port)
        await caller.go(deadline=0)
        await engine.until(lambda: not engine.connections)
        with pytest.raises(LoadError, match="closed"):
            await caller.go(deadline=0)
        caller.close()


async def test_waiting_stops_when_it_is_told_to() -> None:
    """A run against an upstream that never answers can be cancelled; it leaves no task behind."""
    async with RawEngine.start() as engine:
        engine.always(silent())
        task = asyncio.create_task(run(Order(kind="call", port=engine.port, pids=())))
        await engine.received(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.001, 1)])
def test_percentiles_are_by_nearest_rank(share: float, value: float) -> None:
    """Of 1 to 100, the p-th percentile is p."""
    assert percentile([float(one) for one in range(100, 0, -1)], share) == value


def test_nothing_has_no_percentile() -> None:
    """Zero, and not a crash in the report."""
    assert percentile([], 0.5) == 0


def test_cpu_time_is_the_kernels() -> None:
    """Another clock of the kernel's, that of our own process, says the same of our own process."""
    before, began = cpu_seconds(OURS), time.process_time()
    while time.process_time() - began < 0.05:
        pass
    spent, told = time.process_time() - began, cpu_seconds(OURS) - before
    assert told == pytest.approx(spent, rel=0.1)
    assert cpu_seconds(()) == 0


def test_memory_is_what_grows() -> None:
    """Pages that are written to count."""
    before = rss_bytes(OURS)
    held = bytearray(b"x" * 50_000_000)
    assert rss_bytes(OURS) - before > 0.8 * len(held)


def test_a_process_stays_on_its_core() -> None:
    """Every thread of it is moved, and back."""
    code = "import threading, time; threading.Thread(target=time.sleep, args=[60]).start(); print(flush=True)"
    every = os.sched_getaffinity(0)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        threads = [int(task.name) for task in Path(f"/proc/{child.pid}/task").iterdir()]
        assert len(threads) == 2
        pin([child.pid], [min(every)])
        assert [os.sched_getaffinity(thread) for thread in threads] == [{min(every)}] * 2
        pin([child.pid], every)
        assert [os.sched_getaffinity(thread) for thread in threads] == [every] * 2
        child.kill()
