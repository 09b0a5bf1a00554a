"""Every endpoint, streamed and not, and every way in which one side fails the other."""

import asyncio
import itertools
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from unittest.mock import patch

import msgspec
import pytest
import pytest_asyncio

from proxy.upstream import connections
from tests.fakes.answers import chunk, dies, head, raw, silent, whole
from tests.fakes.edge import ALICE, Edge, eventually
from tests.fakes.engine import LOCAL, Answer, Connection, Received
from tests.fakes.raw import RawAnswer, RawClient, request
from tests.proxy.relay import cells
from tests.proxy.relay.cells import CELLS, ENDPOINTS, OUTCOMES, Endpoint, Fault, Mode, Outcome
from tests.proxy.relay.watch import Watch, tasks, watching

pytestmark = pytest.mark.asyncio(loop_scope="module")

VAST = 64  # events of 128 KiB: more than all socket buffers on the way
LENGTH = 1000  # bytes of a plain answer that does not come to its end
NUMBERS = itertools.count(1)
HASTY = 0.1  # seconds; only where nothing more comes anyway


@dataclass(frozen=True, slots=True)
class Bench:
    """A patient proxy and two that give an engine up soon."""

    edges: dict[str, Edge]
    watch: Watch

    def edge(self, fault: Fault) -> Edge:
        return self.edges[fault if fault.startswith("engine silent") else "patient"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bench(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    timeouts = {
        "patient": {},
        "engine silent before": {"first_byte": HASTY},
        "engine silent after": {"idle": HASTY},
    }
    async with AsyncExitStack() as stack:
        watch = stack.enter_context(watching())
        stack.enter_context(patch.object(connections, "KEEPALIVE", 60))  # a slow machine is no idle one
        edges = {}
        for name, times in timeouts.items():
            folder = tmp_path_factory.mktemp("edge")
            settings = {"timeouts": times, "limits": {"requests_per_minute": 1_000_000}}
            edges[name] = await stack.enter_async_context(Edge.start(folder, settings))
            assert (await edges[name].chat()).status == 200  # what is made once is made
        yield Bench(edges, watch)


def begun(endpoint: Endpoint, mode: Mode) -> bytes:
    """The head of an answer and its first piece."""
    if mode == "plain":
        lines = [("Content-Type", "application/json"), ("Content-Length", str(LENGTH))]
        return head(200, lines) + endpoint.plain
    lines = [("Content-Type", "text/event-stream; charset=utf-8"), ("Transfer-Encoding", "chunked")]
    return head(200, lines) + chunk(endpoint.event)


def complete(endpoint: Endpoint, mode: Mode) -> tuple[Answer, bytes]:
    """A long answer, and its body."""
    if mode == "plain":
        body = endpoint.plain + b"x" * (VAST * 128 * 1024)
        return raw(whole(200, body)), body
    events = [endpoint.event, *[b"data: " + b"x" * (128 * 1024) + b"\n\n"] * VAST]
    first = begun(endpoint, mode)
    return raw(first, *map(chunk, events[1:]), chunk(b"")), b"".join(events)


def misbehaves(endpoint: Endpoint, mode: Mode, fault: Fault) -> Answer:
    """The engine's part in the fault."""

    async def stays(_: Received, connection: Connection) -> None:
        connection.send(begun(endpoint, mode))
        await connection.left.wait()

    answers: dict[Fault, Callable[[], Answer]] = {
        "caller leaves before": silent,
        "caller leaves after": lambda: stays,
        "engine dies before": dies,
        "engine dies after": lambda: raw(begun(endpoint, mode), close=True),
        "engine silent before": silent,
        "engine silent after": lambda: stays,
        "caller slow": lambda: complete(endpoint, mode)[0],
    }
    return answers[fault]()


@pytest.mark.parametrize(("name", "mode", "fault"), CELLS)
async def test_every_cell(bench: Bench, name: str, mode: Mode, fault: Fault) -> None:
    """The caller, the audit and the engine see what the table says, and nothing is left behind."""
    edge, endpoint, due = bench.edge(fault), ENDPOINTS[name], OUTCOMES[fault, mode]
    before, asked, number = tasks(), len(edge.engine.requests), f"request-{next(NUMBERS)}"
    edge.engine.then(misbehaves(endpoint, mode, fault))
    async with small_window(edge.port) as client:
        await client.send(post(endpoint, mode, number))
        await edge.engine.received(asked + 1)
        await settle(edge)
        if due.status is None:
            if fault == "caller leaves after":
                assert (await client.until(b"hi" if mode == "stream" else b":[")).startswith(b"HTTP/1.1 200")
            client.leave()
        else:
            judge(endpoint, mode, due, await client.answer())
            if due.whole:
                await client.send(request("GET", "/health"))
                assert (await client.answer("GET")).status == 200
            else:
                assert await client.rest() == b""
    assert len(edge.engine.requests) == asked + 1, "it ran twice"
    await nothing_is_left(bench, edge, before)
    assert await audited(edge, number) == due.audit
    await serves_on(edge, due)


async def audited(edge: Edge, number: str) -> tuple[int, str]:
    """What the audit tells of the request."""
    found: list[tuple[int, str]] = []

    async def told() -> bool:
        found.extend((r["status"], r["reason"]) for r in await edge.records(0) if r["request_id"] == number)
        return bool(found)

    await eventually(told)
    (only,) = found
    return only


async def settle(edge: Edge) -> None:
    """Let what was sent arrive: some turns of the loop, through a socket and back."""
    for _ in range(5):
        await edge.admin("/livez")


def post(endpoint: Endpoint, mode: Mode, number: str) -> bytes:
    body = msgspec.json.encode(cells.request_body(endpoint, mode))
    auth = [("Authorization", f"Bearer {ALICE}"), ("X-Request-Id", number)]
    return request("POST", endpoint.path, auth, body)


class small_window:  # noqa: N801 - used as a function
    """A caller who holds little of what they do not read."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> RawClient:
        caller = socket.socket()
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        caller.settimeout(0)
        await asyncio.get_running_loop().sock_connect(caller, (LOCAL, self._port))
        reader, writer = await asyncio.open_connection(sock=caller, limit=1 << 20)
        self._client = RawClient(reader, writer)
        return self._client

    async def __aexit__(self, *_: object) -> None:
        self._client.leave()


def judge(endpoint: Endpoint, mode: Mode, due: Outcome, found: RawAnswer) -> None:
    """What the caller got is what is due, in the endpoint's own dialect."""
    assert (found.status, found.complete) == (due.status, due.whole)
    if due.status != 200 and due.told:
        said = found.json()
        assert said == cells.error(endpoint.dialect, due.told, said)
        assert found.header("Content-Type") == "application/json"
        return
    first = endpoint.event if mode == "stream" else endpoint.plain
    if due.whole:
        assert found.body == complete(endpoint, mode)[1]
        return
    assert found.body.startswith(first)
    told = found.body.removeprefix(first)
    assert not found.raw.endswith(b"0\r\n\r\n")
    if due.told is None:
        assert told == b""
        assert found.header("Content-Length") == str(LENGTH)
        return
    name, _, data = told.strip(b"\n").rpartition(b"data: ")
    assert told.startswith(b"\n\n")
    assert told.endswith(b"\n\n")
    assert name == (b"" if endpoint.dialect == "openai" else b"event: error\n")
    said = msgspec.json.decode(data)
    assert said == cells.error_event(endpoint.dialect, due.told, said)


async def nothing_is_left(bench: Bench, edge: Edge, before: Counter[str]) -> None:
    """No task, no connection that is not idle, nobody who refers to one, and no request in flight."""

    async def quiet() -> bool:
        open_to_engine = len(edge.engine.connections)
        idle = sum(connection.address[1] == edge.engine.port for connection in bench.watch.idle)
        return not tasks() - before and bench.watch.left() == (0, 0, 0) and open_to_engine == idle

    await eventually(quiet)
    assert await edge.metric("hubgate_in_flight_requests") == 0


async def serves_on(edge: Edge, due: Outcome) -> None:
    """The next request is answered, over the same connection to the engine only if that is whole."""
    known = set(edge.engine.connections)
    assert bool(known) == due.reused
    assert (await edge.chat()).status == 200
    assert (set(edge.engine.connections) == known) == due.reused
    for connection in tuple(edge.engine.connections):
        connection.close()
    await edge.engine.until(lambda: not edge.engine.connections)
