"""The load generator, a process of its own: reads one order from stdin, writes what it saw to stdout.

Exit code 1 and a line on stderr if any answer was not what it had to be.
"""

import asyncio
import itertools
import math
import os
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import msgspec
import uvloop

from bench import stream
from bench.attacker import AttackOrder, attacker
from bench.attacks import SECONDS as ATTACK_SECONDS
from bench.client import Caller, Client, Listener, LoadError
from bench.gauge import cpu_seconds, rss_bytes
from bench.messages import LOCAL, MODEL, chat, post
from hubgate.runtime import child_python

ROOT = Path(__file__).parents[1]
BURST = 100  # connections that are opened at once; listen backlogs are short
PATIENCE = 120.0  # seconds that the last answers may take after the time that was planned
STALLED = 10.0  # seconds after an attack in which others are given up
ENDLESS = 10_000  # events of a stream that goes on beside an attack, 50 a second

Kind = Literal["call", "stream", "hold", "attacked"]


class Order(msgspec.Struct, kw_only=True):
    """What to do. `pids` are the processes whose CPU time or memory is wanted."""

    kind: Kind
    port: int
    pids: tuple[int, ...]
    tokens: tuple[str | None, ...] = (None,)  # one is used again and again; of several, each once
    connections: int = 1
    warm: float = 0.5  # seconds before counting begins
    seconds: float = 2.0
    count: int | None = None  # requests at most
    size: int = 0  # bytes more in each body
    model: str = MODEL
    tokens_out: int = 128  # that a plain answer is asked for
    headers: dict[str, str] = msgspec.field(default_factory=dict)  # besides the usual ones
    traced: bool = False  # whether each request has a `traceparent` of its own
    events: int = 100  # of each stream
    extra: int = 0  # events that the contender adds to each stream
    timed: bool = False  # whether to look how long events were under way
    marker: str = "finish_reason"  # what stands in every good answer
    core: int | None = None  # to stay on
    attack: str = ""  # the name of what another caller does
    attacker: str | None = None  # that one's token


class Seen(msgspec.Struct, kw_only=True):
    """What was seen, in seconds and bytes; percentiles are of answers or of events under way."""

    requests: int = 0
    events: int = 0  # inside the window in which CPU time was taken
    reads: int = 0  # by which those events came: fewer than events where some were joined under way
    bytes: int = 0
    seconds: float = 0.0
    cpu: float = 0.0
    p50: float = 0.0
    p99: float = 0.0
    worst: float = 0.0
    stalled: bool = False  # whether `worst` had not come to its end when it was given up
    rss_before: int = 0
    rss: int = 0


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that this share of them does not exceed (nearest rank); 0 of nothing."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)] if ordered else 0.0


async def generate(order: Order) -> Seen:
    """Have a process of its own follow one order. Raises `LoadError`."""
    process = await asyncio.create_subprocess_exec(
        *(*child_python.COMMAND, "-m", "bench.load"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        out, err = await process.communicate(msgspec.json.encode(order))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        ended = f"the load generator ended with {process.returncode}"
        raise LoadError(err.decode(errors="replace").strip()[-800:] or ended)
    return msgspec.json.decode(out, type=Seen)


async def run(order: Order) -> Seen:
    """Follow one order. Raises `LoadError`, `OSError`."""
    kinds = {"call": _call, "stream": _stream, "hold": _hold, "attacked": _attacked}
    return await kinds[order.kind](order)


async def _call(order: Order) -> Seen:
    """Plain requests: as many at once as there are connections, each sent when the last was answered."""
    body = chat(size=order.size, model=order.model, tokens=order.tokens_out)
    once = len(order.tokens) > 1
    requests: Iterator[bytes] = (post(body, token, order.headers) for token in order.tokens)
    if order.traced:
        requests = (post(body, order.tokens[0], order.headers | _trace(index)) for index in itertools.count())
    elif not once:
        requests = itertools.repeat(post(body, order.tokens[0], order.headers))
    if order.count:
        requests = itertools.islice(requests, order.count)
    callers = [Caller(requests, order.marker.encode()) for _ in range(order.connections)]
    async with asyncio.timeout(order.warm + order.seconds + PATIENCE), _connected(order, callers):
        if not order.count and not once:
            await _until(callers, order.warm)
        begun, cpu = time.monotonic(), cpu_seconds(order.pids)
        await _until(callers, order.seconds)
        seen = Seen(cpu=cpu_seconds(order.pids) - cpu, seconds=time.monotonic() - begun)
    times = [one for caller in callers for one in caller.times]
    seen.requests, seen.bytes = len(times), sum(caller.bytes for caller in callers)
    _percentiles(seen, times)
    return seen


def _trace(index: int) -> dict[str, str]:
    """W3C Trace Context, as an instrumented client sends it."""
    return {"traceparent": f"00-{index:032x}-{index:016x}-01"}


async def _until(callers: Sequence[Caller], seconds: float) -> None:
    for caller in callers:
        caller.times.clear()
        caller.bytes = 0
    deadline = time.monotonic() + seconds
    await asyncio.gather(*(caller.go(deadline) for caller in callers))


async def _stream(order: Order) -> Seen:
    """Streams side by side. The window goes from everybody's first event to the first stream's end."""
    request = post(chat(events=order.events), order.tokens[0])
    listeners = [Listener(request) for _ in range(order.connections)]
    async with asyncio.timeout(order.events * 0.1 + PATIENCE), _connected(order, listeners):
        await asyncio.gather(*(listener.started for listener in listeners))
        begun, cpu = time.monotonic(), cpu_seconds(order.pids)
        first = [len(listener.reads) for listener in listeners]
        ends = [listener.ended for listener in listeners]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        seen = Seen(cpu=cpu_seconds(order.pids) - cpu, seconds=time.monotonic() - begun)
        last = [len(listener.reads) for listener in listeners]
        await asyncio.gather(*ends)
    for listener, low, high in zip(listeners, first, last, strict=True):
        stream.check(listener.reads, order.events + order.extra)
        before, until = (len(stream.arrivals(listener.reads[:index])) for index in (low, high))
        seen.events += until - before
        seen.reads += high - low
        seen.bytes += sum(len(data) for _, data in listener.reads)
    seen.requests = len(listeners)
    if order.timed:
        found = [one for listener in listeners for one in stream.delays(listener.reads)]
        if len(found) != order.events * len(listeners):
            raise LoadError(f"only {len(found)} events told when they were sent")
        _percentiles(seen, found)
    return seen


async def _hold(order: Order) -> Seen:
    """Streams that got their first event and then idle, all at once."""
    before = rss_bytes(order.pids)
    request = post(chat(events=10, hold=True), order.tokens[0])
    listeners = [Listener(request) for _ in range(order.connections)]
    begun, cpu = time.monotonic(), cpu_seconds(order.pids)
    async with asyncio.timeout(PATIENCE), _connected(order, listeners, wait=True):
        seen = Seen(requests=len(listeners), seconds=time.monotonic() - begun, rss_before=before)
        await asyncio.sleep(1)  # what an event loop frees a moment later is not held
        seen.rss, seen.cpu = rss_bytes(order.pids), cpu_seconds(order.pids) - cpu
        if any(listener.ended.done() for listener in listeners):
            raise LoadError("a stream that should have idled has ended")
    return seen


async def _attacked(order: Order) -> Seen:
    """One caller's requests and stream while another caller attacks.

    `p50` is of the requests before; `worst` is the longest that an answer or an event took since.
    """
    caller = Caller(itertools.repeat(post(chat(), order.tokens[0])), order.marker.encode())
    listener = Listener(post(chat(events=ENDLESS), order.tokens[0]))
    attack = AttackOrder(attack=order.attack, port=order.port, token=order.attacker)
    async with (
        asyncio.timeout(PATIENCE),
        attacker(attack) as other,
        _connected(order, [listener, caller], wait=True),
    ):
        await _until([caller], order.warm)
        await _until([caller], order.seconds)
        seen = Seen(requests=len(caller.times), p50=percentile(caller.times, 0.5))
        caller.times.clear()
        before, begun = len(stream.delays(listener.reads)), time.monotonic()
        try:
            async with asyncio.timeout(ATTACK_SECONDS + STALLED):
                await _meanwhile(caller, listener, other.attack())
        except TimeoutError:
            seen.worst, seen.stalled = time.monotonic() - begun, True
            return seen
    delays = stream.delays(listener.reads)[before:]
    seen.events, seen.worst = len(delays), max(*caller.times, *delays)
    return seen


async def _meanwhile(caller: Caller, listener: Listener, attack: Coroutine[Any, Any, None]) -> None:
    """Go on until the attack is over, and what was under way then has come."""
    attacking = asyncio.ensure_future(attack)
    attacking.add_done_callback(lambda _: caller.stop())
    try:
        await caller.go(math.inf)
        await attacking
        await listener.more()
    finally:
        attacking.cancel()


@asynccontextmanager
async def _connected(order: Order, clients: Sequence[Client], *, wait: bool = False) -> AsyncIterator[None]:
    """Open all connections; with `wait`, go on with the next lot when each of these has its first event."""
    loop = asyncio.get_running_loop()
    try:
        for index in range(0, len(clients), BURST):
            batch = clients[index : index + BURST]
            opening = (loop.create_connection(partial(_same, client), LOCAL, order.port) for client in batch)
            await asyncio.gather(*opening)
            if wait:
                await asyncio.gather(*(client.started for client in batch if isinstance(client, Listener)))
        yield
    finally:
        for client in clients:
            client.close()


def _same(client: Client) -> Client:
    return client


def _percentiles(seen: Seen, values: Sequence[float]) -> None:
    seen.p50, seen.p99 = percentile(values, 0.5), percentile(values, 0.99)
    seen.worst = max(values, default=0.0)


def main() -> int:
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    if order.core is not None:
        os.sched_setaffinity(0, {order.core})
    try:
        seen = uvloop.run(run(order))
    except (LoadError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except TimeoutError:
        sys.stderr.write(f"the last answers did not come within {PATIENCE:.0f} seconds\n")
        return 1
    sys.stdout.buffer.write(msgspec.json.encode(seen))
    return 0


if __name__ == "__main__":
    sys.exit(main())
