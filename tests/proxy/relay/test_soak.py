"""A proxy process under mixed load: what it holds afterwards is what it held before."""

import asyncio
import random
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from tests.fakes.answers import DONE, chunk, completion, dies, event, head, raw, refusal
from tests.fakes.engine import Connection, Received
from tests.fakes.process import ProxyProcess
from tests.fakes.raw import RawClient, ask, request
from tests.fakes.running_proxy import ALICE, BASE, CHAT, MESSAGES, eventually

SETTINGS = {"limits": {"requests_per_minute": 10**9, "tokens_per_minute": 10**9}}
AT_ONCE = 8
SHORT = 1_500  # requests
LONG = 30 * 60.0  # seconds
WARM_UP = 0.2  # of the time: caches, pools and the allocator's arenas fill
SAMPLES = 120
GROWTH = 20  # bytes for each request
KINDS = ("plain", "stream", "leaves before", "leaves in the stream", "dies", "refused", "stranger", "no JSON")
_TEXT = event({"choices": [{"index": 0, "delta": {"content": "x" * 40}}]})
_SSE = [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")]


async def engine(received: Received, connection: Connection) -> None:
    """Do what the request asks for in its `user` field."""
    match received.json()["user"]:
        case "stream":
            await raw(head(200, _SSE), *[chunk(_TEXT)] * 20, chunk(DONE), chunk(b""))(received, connection)
        case "leaves before":
            await connection.left.wait()
        case "leaves in the stream":
            connection.send(head(200, _SSE) + chunk(_TEXT))
            await connection.left.wait()
        case "dies":
            await dies()(received, connection)
        case "refused":
            await refusal(400, "too long")(received, connection)
        case _:
            await completion("hi")(received, connection)


@dataclass(slots=True)
class Load:
    """Callers with a connection each, who do one thing after the other by lot."""

    proxy: ProxyProcess
    seed: int = 5
    done: int = 0
    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)

    async def run(self, *, requests: int | None = None, until: float | None = None) -> None:
        """Go on until so many were done, or until then by the monotonic clock."""
        rng = random.Random(self.seed)  # noqa: S311 - the same in every run
        end = self.done + requests if requests else None

        async def caller() -> None:
            while (end is None or self.done < end) and (until is None or time.monotonic() < until):
                async with RawClient.connect(self.proxy.port) as client:
                    for _ in range(rng.randrange(1, 20)):
                        self.done += 1
                        kind = rng.choice(KINDS)
                        if not await self._one(client, kind):
                            break

        await asyncio.gather(*[caller() for _ in range(AT_ONCE)])

    async def _one(self, client: RawClient, kind: str) -> bool:
        """Ask once; whether the connection goes on."""
        token = "hf_demo_nobody" if kind == "stranger" else ALICE
        await client.send(_request(kind, token))
        if kind.startswith("leaves"):
            if kind == "leaves in the stream":
                assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
                assert await client.until(b"\n\n")
            return False
        answer = await client.answer()
        assert answer.complete
        self.statuses[kind, answer.status] += 1
        return answer.header("Connection") != "close"


def _request(kind: str, token: str) -> bytes:
    streaming = kind in ("stream", "leaves in the stream")
    asked = {"model": BASE, "messages": MESSAGES, "user": kind, "stream": streaming}
    body = b"{" if kind == "no JSON" else msgspec.json.encode(asked)
    return request("POST", CHAT, [("Authorization", f"Bearer {token}")], body)


def handles(proxy: ProxyProcess) -> int:
    """Open files and sockets of the process."""
    return sum(1 for _ in Path(f"/proc/{proxy.process.pid}/fd").iterdir())


async def quiet(proxy: ProxyProcess) -> int:
    """Wait until nothing is under way, and no connection but idle ones to the engine; gives the handles."""

    async def none_in_flight() -> bool:
        answer = await ask(proxy.admin_port, request("GET", "/metrics", [("Connection", "close")]))
        return b"\nhubgate_in_flight_requests 0.0\n" in answer.body

    await eventually(none_in_flight)
    for connection in tuple(proxy.engine.connections):
        connection.close()  # the idle ones; whatever it was busy with is over
    await proxy.engine.until(lambda: not proxy.engine.connections)
    proxy.engine.requests.clear()
    proxy.engine.wire.clear()
    seen: list[int] = []

    async def same() -> bool:
        seen.append(handles(proxy))
        return len(seen) > 20 and len(set(seen[-20:])) == 1

    await eventually(same)
    return seen[-1]


async def test_a_short_soak(tmp_path: Path) -> None:
    """After mixed load there are the handles of before, nothing in flight, and every kind had its answer."""
    async with ProxyProcess.start(tmp_path, SETTINGS) as proxy:
        proxy.engine.always(engine)
        load = Load(proxy)
        await load.run(requests=200)
        before = await quiet(proxy)
        await load.run(requests=SHORT)
        after = await quiet(proxy)
        assert abs(after - before) <= 2  # the poller's connection to the backend comes and goes
        assert set(load.statuses) == {
            ("plain", 200),
            ("stream", 200),
            ("dies", 502),
            ("refused", 400),
            ("stranger", 401),
            ("no JSON", 400),
        }
        assert "Traceback" not in proxy.said


def slope(points: list[tuple[float, float]]) -> float:
    """Of the line that fits best, by least squares."""
    return statistics.linear_regression([x for x, _ in points], [y for _, y in points]).slope


@pytest.mark.long("soak")
@pytest.mark.timeout(LONG + 300)
async def test_a_long_soak(tmp_path: Path) -> None:
    """In half an hour of mixed load no memory is lost: under 20 bytes for each request; nor a handle."""
    async with ProxyProcess.start(tmp_path, SETTINGS) as proxy:
        proxy.engine.always(engine)
        load, begun = Load(proxy), time.monotonic()
        await load.run(until=begun + LONG * WARM_UP)
        before, points = await quiet(proxy), [(float(load.done), float(proxy.memory()))]
        for sample in range(1, SAMPLES + 1):
            await load.run(until=begun + LONG * (WARM_UP + (1 - WARM_UP) * sample / SAMPLES))
            await quiet(proxy)
            points.append((float(load.done), float(proxy.memory())))
        found, after = slope(points), await quiet(proxy)
        told = f"{load.done} requests, {found:.2f} bytes each, {before} handles, then {after}"
        print(told)  # noqa: T201 - the numbers of a run, shown by pytest -s
        assert abs(after - before) <= 2
        assert found < GROWTH, told
        assert "Traceback" not in proxy.said
