"""What callers may hold in memory with their bodies: nobody can take what is there for the others."""

import asyncio
import hashlib
import random
from contextlib import AsyncExitStack

import msgspec
import pytest

from hubgate.proxy import settings
from hubgate.proxy.body.large_json import LargeBody
from hubgate.proxy.body.reader import BodyReader
from hubgate.proxy.errors import Denied
from hubgate.proxy.http.request import WINDOW, Flow, RawHead, ServerRequest
from tests.cases import each
from tests.fakes.answers import Stream, chunk
from tests.fakes.raw import RawAnswer, RawClient, request
from tests.fakes.running_proxy import ALICE, BASE, BOB, CHAT, Edge, eventually
from tests.proxy.conftest import StartEdge

LARGEST = 8 * WINDOW
KEY = "local-key-of-ci-0123456789"
SMALL = {"request": {"max_body_bytes": LARGEST, "max_buffered_bytes": 4 * LARGEST}}


def body(size: int) -> bytes:
    """A request of exactly so many bytes."""
    empty = {"model": BASE, "messages": [], "user": ""}
    return msgspec.json.encode({**empty, "user": "x" * (size - len(msgspec.json.encode(empty)))})


def sent(size: int, token: str = ALICE, *, chunked: bool = False, held_back: int = 0) -> bytes:
    """A request with a body of this size, less the last bytes of it."""
    raw = body(size)
    part = raw[: size - held_back]
    framing = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(size))
    content = chunk(part) + (b"" if held_back else chunk(b"")) if chunked else part
    return request("POST", CHAT, [("Authorization", f"Bearer {token}"), framing], content)


async def asked(edge: Edge, *pieces: bytes) -> RawAnswer:
    """Send a request in these pieces, each on its own."""
    async with RawClient.connect(edge.port) as client:
        for piece in pieces:
            await client.send(piece)
            await edge.admin("/livez")
        return await client.answer()


@pytest.mark.parametrize("chunked", [False, True])
async def test_row_50_one_caller_does_not_take_the_memory_of_others(
    start_edge: StartEdge, monkeypatch: pytest.MonkeyPatch, *, chunked: bool
) -> None:
    """One holds unfinished bodies on twenty connections; the largest bodies of two others are taken."""
    monkeypatch.setenv("HF_TOKEN", "hf_demo_service")
    key = {"name": "ci", "sha256": hashlib.sha256(KEY.encode()).hexdigest(), "token": "service"}
    edge = await start_edge({**SMALL, "keys": [{**key, "models": ["demo/*"]}]})
    async with AsyncExitStack() as stack:
        for _ in range(20):
            client = await stack.enter_async_context(RawClient.connect(edge.port))
            await client.send(sent(LARGEST, chunked=chunked, held_back=1))
            await edge.admin("/livez")

        async def most_are_refused() -> bool:  # it gets no more than half of what is there, nor the odd byte
            refused = await edge.metric("hubgate_requests_total", code="rate_limit_exceeded")
            return refused >= 16 and refused + await edge.metric("hubgate_in_flight_requests") == 20

        await eventually(most_are_refused)
        answer = await asked(edge, sent(LARGEST, chunked=chunked))
        assert (answer.status, answer.code, answer.header("Retry-After")) == (429, "rate_limit_exceeded", "1")
        assert "one caller" in answer.json()["error"]["message"]
        # Also their own small ones, however they come.
        for token in (ALICE, BOB, KEY):
            small = sent(1000, token, chunked=chunked)
            assert (await asked(edge, small[:-700], small[-700:])).status == 200
        for token in (BOB, KEY):
            assert (await asked(edge, sent(LARGEST, token, chunked=chunked))).status == 200

    async def left() -> bool:
        return await edge.metric("hubgate_in_flight_requests") == 0

    await eventually(left)
    for _ in range(3):
        assert (await asked(edge, sent(LARGEST, chunked=chunked))).status == 200


async def test_a_body_is_held_for_as_long_as_its_request(start_edge: StartEdge) -> None:
    """What waits for its answer counts; it makes room when that is there, and nothing is counted twice."""
    edge = await start_edge(SMALL)
    streams = [Stream(), Stream(), Stream()]
    for stream in streams:
        edge.engine.then(stream)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(RawClient.connect(edge.port)) for _ in range(2)]
        for number, client in enumerate(clients):
            await client.send(sent(LARGEST))
            await edge.engine.received(number + 1)
        assert (await asked(edge, sent(LARGEST))).status == 429
        for stream, client in zip(streams, clients, strict=False):
            stream.finish()
            assert (await client.answer()).status == 200
        streams[2].finish()
        assert (await asked(edge, sent(LARGEST))).status == 200


class Nowhere:
    """A connection to nobody."""

    date, draining, behind = "now", False, False

    def write(self, data: bytes) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def cut(self) -> None: ...
    def admit(self) -> None: ...
    def set_source(self, source: Flow | None) -> None: ...
    def finished(self, *, keep: bool) -> None: ...


class Sender:
    """A body that is fed by hand, and what is made of it."""

    def __init__(self, bodies: BodyReader, sub: str) -> None:
        head = RawHead(method="POST", target="/", version="1.1", headers=(), peer="", keep_alive=True)
        self.sub = sub
        self.request = ServerRequest(Nowhere(), head)
        self.reading = asyncio.ensure_future(bodies.read(self.request, sub))

    async def feed(self, size: int) -> LargeBody | Denied | None:
        """Send more; gives what came of the whole, if that is known by now."""
        if size:
            self.request.feed(b" " * size)
        else:
            self.request.feed_end()
        for _ in range(4):
            await asyncio.sleep(0)
        return self.reading.result() if self.reading.done() else None


@each("seed", range(8))
async def test_whoever_holds_nothing_finds_room(seed: int) -> None:
    """Whatever two callers do with bodies of any number and size, the largest of a third is taken."""
    bodies = BodyReader(settings.Request(**SMALL["request"]), 60, 1)
    rng = random.Random(seed)  # noqa: S311 - the same in every run
    senders: list[Sender] = []
    held: list[tuple[str, int]] = []
    for _ in range(400):
        match rng.randrange(8):
            case 0:
                senders.append(Sender(bodies, rng.choice("ab")))
            case 1 if held:
                bodies.release(*held.pop(rng.randrange(len(held))))
            case _ if senders:
                sender = rng.choice(senders)
                came = await sender.feed(rng.choice([0, 1, 1000, WINDOW, 2 * WINDOW]))
                if came is None:
                    continue
                senders.remove(sender)
                if isinstance(came, LargeBody):
                    held.append((sender.sub, len(came)))
        third = Sender(bodies, "c")
        for _ in range(LARGEST // WINDOW):
            assert await third.feed(WINDOW) is None
        came = await third.feed(0)
        assert isinstance(came, LargeBody)
        bodies.release("c", len(came))
    for sender in senders:
        sender.reading.cancel()
        await asyncio.wait([sender.reading])
    for sub, size in held:
        bodies.release(sub, size)
    assert (bodies._held, bodies._shares) == (0, {})
