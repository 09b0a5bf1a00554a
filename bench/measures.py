"""What is measured, and how: each measure gives the values of one or more rows of the table."""

import asyncio
import math
import os
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from bench import cold
from bench.attacks import ATTACKS, Attack
from bench.client import LoadError
from bench.contenders import DIRECT, Contender, Running
from bench.gauge import pin
from bench.load import Kind, Order, Seen, generate
from bench.process import Child, StartError
from bench.rows import Row
from bench.surroundings import stranger

MB: Final = 1_000_000
BODY: Final = 20 * MB
IDLE_STREAMS: Final = 5000
COLD: Final = 100  # new tokens in each round
CATALOGUE: Final = 110.0  # seconds after which no further attack is begun


@dataclass(frozen=True, slots=True)
class Subject:
    """Who is measured, and the engine behind."""

    contender: Contender
    running: Running
    upstream: Running
    round: int

    async def load(self, kind: Kind, **fields: Any) -> Seen:
        """Let the load generator follow one order. Raises `LoadError`."""
        fields = {"tokens": (self.running.token,), "extra": self.contender.extra_events, **fields}
        order = Order(kind=kind, port=self.running.port, pids=self.running.child.pids(), **fields)
        return await generate(order)

    def share(self, load: int) -> int:
        """The part of a usual load that suits the contender."""
        return max(1, round(load * self.contender.pace))


@dataclass(frozen=True, slots=True)
class Measure:
    """Some rows that come of one run of the load."""

    key: str
    rows: tuple[Row, ...]
    take: Callable[[Subject], Awaitable[Mapping[str, float]]]
    only: frozenset[str] | None = None
    """Who is measured at all; None for everybody."""
    once: bool = False
    """In a process started for it, and in one round only: memory is not a matter of chance."""
    slow: bool = True
    """Whether a contender of a small pace is measured too."""
    direct: bool = False
    """Whether it is also taken without any proxy."""
    tls: bool = False
    """Whether the upstream has TLS; each round is in a process started for it."""

    def concerns(self, contender: Contender) -> bool:
        """Whether it makes sense for this contender."""
        if contender is DIRECT:
            return self.direct
        if self.only is not None and contender.name not in self.only:
            return False
        return self.slow or contender.pace == 1


async def _json(subject: Subject) -> Mapping[str, float]:
    seen = await subject.load("call", connections=subject.share(32), seconds=2.0)
    return {"json": seen.cpu / seen.requests * 1e6}


async def _traced(subject: Subject) -> Mapping[str, float]:
    seen = await subject.load("call", connections=subject.share(32), seconds=2.0, traced=True)
    return {"traced": seen.cpu / seen.requests * 1e6}


async def _tls(subject: Subject) -> Mapping[str, float]:
    return {"tls": (await _json(subject))["json"]}


async def _stream(subject: Subject) -> Mapping[str, float]:
    seen = await subject.load("stream", connections=subject.share(64), events=200)
    return {"stream": seen.cpu / seen.events * 1e6, "joined": 100 * max(0.0, 1 - seen.reads / seen.events)}


async def _latency(subject: Subject) -> Mapping[str, float]:
    seen = await subject.load("call", seconds=2.0)
    return {"p50": seen.p50 * 1e3, "p99": seen.p99 * 1e3}


async def _rate(subject: Subject) -> Mapping[str, float]:
    async with _apart(subject) as core:
        seen = await subject.load("call", connections=subject.share(64), seconds=2.0, core=core)
    return {"rate": seen.requests / seen.seconds}


@asynccontextmanager
async def _apart(subject: Subject) -> AsyncIterator[int | None]:
    """The proxy on the first core, the upstream on the second; gives the one for the load."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        yield None
        return
    proxy, upstream = subject.running.child.pids(), subject.upstream.child.pids()
    pin(proxy, cores[:1])
    pin(upstream, cores[1:2])
    try:
        yield cores[1]
    finally:
        pin(proxy, cores)
        pin(upstream, cores)


async def _tail(subject: Subject) -> Mapping[str, float]:
    seen = await subject.load("stream", connections=subject.share(200), events=100, timed=True)
    return {"tail": seen.p99 * 1e3}


async def _idle(subject: Subject) -> Mapping[str, float]:
    await subject.load("call", seconds=0.5)
    seen = await subject.load("hold", connections=IDLE_STREAMS)
    return {"rss": seen.rss / MB, "rss_added": (seen.rss - seen.rss_before) / MB}


async def _body(subject: Subject) -> Mapping[str, float]:
    seen = await subject.load("call", size=BODY, count=5, seconds=60.0)
    big = asyncio.create_task(subject.load("call", size=BODY, count=10, seconds=60.0))
    try:
        probe = await subject.load("call", warm=0.0, seconds=2.0)
        await big
    finally:
        big.cancel()
    return {"body": seen.cpu / seen.requests * 1e3, "stall": probe.worst * 1e3}


async def _cold(subject: Subject) -> Mapping[str, float]:
    first = subject.round * COLD
    tokens = tuple(stranger(index) for index in range(first, first + COLD))
    cold = await subject.load("call", tokens=tokens, seconds=60.0)
    return {"cold": cold.cpu / cold.requests * 1e6, "cold_p50": cold.p50 * 1e3}


async def _cold_adapter(_: Subject) -> Mapping[str, float]:
    with TemporaryDirectory(prefix="hubgate-bench-") as folder:
        async with cold.fake_site(Path(folder)) as site:
            return cold.summary(await cold.measure(site))


async def _attacks(subject: Subject) -> Mapping[str, float]:
    """The catalogue, until the contender dies of it or keeps others waiting for longer than is waited."""
    found: dict[str, float] = {}
    usual: list[float] = []
    deadline = time.monotonic() + CATALOGUE
    for attack in ATTACKS:
        if time.monotonic() > deadline:
            break
        pids = subject.running.child.pids()
        try:
            seen = await subject.load(
                "attacked", attack=attack.name, attacker=subject.running.other_token, seconds=0.5
            )
        except LoadError as error:
            if not await _died(subject.running.child, pids):
                raise LoadError(f"{attack.name}: {error}") from None
            found[_attack_key(attack)] = math.inf
            break
        found[_attack_key(attack)] = seen.worst * 1e3
        usual.append(seen.p50 * 1e3)
        if seen.stalled:
            break
    return found | ({"attack_usual": statistics.median(usual)} if usual else {})


async def _died(child: Child, pids: Collection[int]) -> bool:
    """Whether it, or a process that it had, ends within a second."""
    for _ in range(20):
        try:
            if child.process.returncode is not None or not set(pids) <= set(child.pids()):
                return True
        except StartError:
            return True
        await asyncio.sleep(0.05)
    return False


def _attack_key(attack: Attack) -> str:
    return f"attack_{attack.name.replace(' ', '_')}"


_BY_ATTACK: Final = tuple(
    (
        attack.name,
        Row(
            _attack_key(attack),
            f"while it {attack.does}",
            "ms",
            "the longest that an answer or an event of another caller's took",
        ),
    )
    for attack in ATTACKS
)

MEASURES: Final = (
    Measure(
        "json",
        (
            Row(
                "json",
                "CPU per JSON request",
                "µs",
                "a chat completion of 0.3 kB in and 0.7 kB out, 32 at a time",
            ),
        ),
        _json,
    ),
    Measure(
        "traced",
        (
            Row(
                "traced",
                "the same, traced",
                "µs",
                "each with a `traceparent` of its own (W3C Trace Context), so that no two heads are alike",
            ),
        ),
        _traced,
    ),
    Measure(
        "tls",
        (
            Row(
                "tls",
                "the same, TLS to the engine",
                "µs",
                "as the JSON request, where both sides show certificates (TLS 1.3, connections kept)",
            ),
        ),
        _tls,
        only=frozenset({"nginx", "hubgate"}),
        tls=True,
    ),
    Measure(
        "stream",
        (
            Row(
                "stream",
                "CPU per streamed event",
                "µs",
                "64 streams of 200 events of 0.2 kB; every 20 ms one event, as a chunk and a write of "
                "its own, to each; from everybody's first event to the first stream's end",
            ),
            Row(
                "joined",
                "events that came joined",
                "%",
                "by how much fewer reads than events there were",
            ),
        ),
        _stream,
    ),
    Measure(
        "latency",
        (
            Row("p50", "added latency, p50", "ms", "one connection, one request after the other", added=True),
            Row("p99", "added latency, p99", "ms", "the same", added=True),
        ),
        _latency,
        direct=True,
    ),
    Measure(
        "rate",
        (
            Row(
                "rate",
                "JSON requests per second on one core",
                "/s",
                "the proxy alone on one core, load and upstream on the other, 64 at a time",
            ),
        ),
        _rate,
    ),
    Measure(
        "tail",
        (
            Row(
                "tail",
                "added delay of an event, p99, 200 streams",
                "ms",
                "from the upstream's write to the client's read, 200 streams of 50 events a second each",
                added=True,
            ),
        ),
        _tail,
        direct=True,
    ),
    Measure(
        "idle",
        (
            Row(
                "rss",
                "memory at 5,000 idle streams",
                "MB",
                "resident, all processes, a second after the last began; one round",
            ),
            Row("rss_added", "the same, without what it had before", "MB", "started anew for this"),
        ),
        _idle,
        once=True,
        slow=False,
    ),
    Measure(
        "body",
        (
            Row("body", "CPU per body of 20 MB", "ms", "one after the other"),
            Row(
                "stall",
                "longest wait of a small request meanwhile",
                "ms",
                "one connection beside the one that sends ten such bodies; its worst answer",
            ),
        ),
        _body,
        slow=False,
        direct=True,
    ),
    Measure(
        "attacks",
        (
            Row(
                "attacked",
                "longest wait of others while one caller attacks",
                "ms",
                "the largest of the rows below, and the name of that attack; `died`: a process of the "
                "contender ended; 15 s or more: the others were given up; no attack came after either",
                worst_of=_BY_ATTACK,
            ),
            Row("attack_usual", "their usual wait, p50", "ms", "of the same requests before each attack"),
            *(row for _, row in _BY_ATTACK),
        ),
        _attacks,
        once=True,
    ),
    Measure(
        "cold",
        (
            Row("cold", "CPU of a token's first request", "µs", "whoami, auth-check and the request itself"),
            Row("cold_p50", "latency of it, p50", "ms", "the demo Hub's own time included"),
        ),
        _cold,
        only=frozenset({"hubgate"}),
    ),
    Measure(
        "cold-adapter",
        cold.ROWS,
        _cold_adapter,
        only=frozenset({"hubgate"}),
        once=True,
    ),
)
