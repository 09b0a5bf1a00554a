"""Bytes out are bytes in: random answers, cut at random by the engine and by TCP."""

import asyncio
import hashlib
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import pytest

from tests.fakes.answers import DONE, chunk, event, head
from tests.fakes.engine import Connection, Received
from tests.fakes.raw import RawClient, request
from tests.fakes.running_proxy import ALICE, BASE, MESSAGES, Edge
from tests.proxy.conftest import StartEdge
from tests.proxy.relay.test_conformance import settle

SEED = 20261122
ANSWERS = 1000
AT_ONCE = 8
SIZES = [0, 1, 2, 100, 1_000, 8_192, 65_535, 65_536, 65_537, 200_000]  # bytes; some are drawn up to 1 MB
USAGE = event({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}})


@dataclass(frozen=True, slots=True)
class Case:
    """One answer: what the engine sends, in which pieces, and what of it is the caller's."""

    wire: list[bytes]  # one write each
    due: str  # SHA-256 of the body
    streaming: bool
    asks_for_usage: bool


def pieces(rng: random.Random, data: bytes, most: int) -> Iterator[bytes]:
    """The same bytes in at most so many pieces."""
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(most)))
    places = [0, *cuts, len(data)]
    return (data[a:b] for a, b in itertools.pairwise(places) if a < b)


def drawn(rng: random.Random) -> Case:
    """A plain answer with a length or in chunks, or a stream with its usage at the end."""
    size = rng.choice(SIZES) if rng.random() < 0.95 else rng.randrange(1_000_000)
    asks = rng.random() < 0.5
    if streaming := rng.random() < 0.5:
        # Any bytes but line ends, in events of any size.
        text = rng.randbytes(size).replace(b"\n", b"\0")
        events = [b"data: " + part + b"\n\n" for part in pieces(rng, text, 20)]
        sent = b"".join([*events, USAGE, DONE])
        due = b"".join([*events, USAGE if asks else b"", DONE])
        lines = [("Content-Type", "text/event-stream")]
    else:
        sent = due = rng.randbytes(size)
        lines = [("Content-Type", "application/json")]
    if streaming or rng.random() < 0.5:
        parts = [*map(chunk, pieces(rng, sent, 30)), chunk(b"")]
        lines.append(("Transfer-Encoding", "chunked"))
    else:
        parts = [sent]
        lines.append(("Content-Length", str(len(sent))))
    wire = [head(200, lines), *parts]  # a chunk at a time, as engines send
    if rng.random() < 0.5:
        wire = list(pieces(rng, b"".join(wire), 12))
    return Case(wire, hashlib.sha256(due).hexdigest(), streaming, asks)


async def asks(edge: Edge, cases: Iterator[tuple[int, Case]]) -> int:
    """One caller with one connection, until no case is left; how many were right."""
    right = 0
    async with RawClient.connect(edge.port) as client:
        for number, case in cases:
            fields = {"stream": True, "stream_options": {"include_usage": case.asks_for_usage}}
            asked = {"model": BASE, "messages": MESSAGES, "user": str(number)}
            await client.send(post({**asked, **(fields if case.streaming else {})}))
            answer = await client.answer()
            assert (answer.status, answer.complete) == (200, True)
            assert hashlib.sha256(answer.body).hexdigest() == case.due, f"answer {number} of seed {SEED}"
            right += 1
    return right


def post(body: object) -> bytes:
    auth = [("Authorization", f"Bearer {ALICE}")]
    return request("POST", "/v1/chat/completions", auth, msgspec.json.encode(body))


async def test_the_hash_of_a_thousand_answers(start_edge: StartEdge) -> None:
    """Every byte of the engine's comes out once and in order, but the event of usage nobody asked for."""
    edge = await start_edge({"limits": {"requests_per_minute": 1_000_000}})
    rng = random.Random(SEED)  # noqa: S311 - the same in every run
    waiting: dict[str, Case] = {}

    def cases() -> Iterator[tuple[int, Case]]:
        for number in range(ANSWERS):
            waiting[str(number)] = case = drawn(rng)
            yield number, case

    async def answers(received: Received, connection: Connection) -> None:
        for piece in waiting.pop(received.json()["user"]).wire:
            connection.send(piece)
            await asyncio.sleep(0)  # a segment of its own

    edge.engine.always(answers)
    shared = cases()
    found = await asyncio.gather(*[asks(edge, shared) for _ in range(AT_ONCE)])
    assert (sum(found), waiting) == (ANSWERS, {})
    assert len(edge.engine.connections) <= AT_ONCE


@pytest.mark.parametrize("usage", [True, False])
async def test_byte_by_byte(edge: Edge, usage: bool) -> None:
    """A stream whose bytes come one at a time is the same stream."""
    text = event({"choices": [{"index": 0, "delta": {"content": "hi"}}]})
    body = chunk(text) + chunk(USAGE) + chunk(DONE) + chunk(b"")

    async def drips(_: Received, connection: Connection) -> None:
        connection.send(head(200, [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")]))
        for at in range(len(body)):
            connection.send(body[at : at + 1])
            if at % 10 == 0:
                await settle(edge)

    edge.engine.then(drips)
    answer = await edge.chat(stream=True, stream_options={"include_usage": usage})
    assert (answer.complete, answer.body) == (True, text + (USAGE if usage else b"") + DONE)
