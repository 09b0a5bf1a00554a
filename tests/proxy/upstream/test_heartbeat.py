"""What a streaming caller of a cold model is told while it is loaded."""

import asyncio
import json

import openai
import pytest
from aiohttp import web

from hubgate.proxy.upstream.heartbeat import describe
from hubgate.wire.control_api import LoadFailed, Progress
from hubgate.wire.seal import ScopedToken
from tests.fakes.answers import DONE, Stream, refusal
from tests.fakes.backend import Held, say, says
from tests.fakes.raw import RawClient, request
from tests.fakes.running_proxy import ALICE, BASE, CHAT, MESSAGES, PUBLIC, Edge
from tests.proxy.conftest import StartEdge

SOON = {"cold_start": {"heartbeat_after": 0.02}}
BODY = json.dumps({"model": PUBLIC, "messages": MESSAGES, "stream": True}).encode()
SENT = request("POST", CHAT, [("Authorization", f"Bearer {ALICE}")], BODY)


class Loading(Held):
    """Tells how far it is, and waits."""

    async def __call__(self, token: ScopedToken, response: web.StreamResponse) -> None:
        repo = token.adapter or token.base
        await say(response, Progress(stage="downloading", repo=repo, done=43, total=100, rate=12.1e6))
        await super().__call__(token, response)


@pytest.mark.parametrize(
    ("progress", "words"),
    [
        (Progress(stage="queued", repo="a/b@c"), "waiting for a/b"),
        (Progress(stage="downloading", repo="a/b@c"), "loading a/b"),
        (Progress(stage="downloading", repo="a/b@c", done=1, total=3, rate=5e4), "loading a/b 33% 0.1 MB/s"),
        (Progress(stage="starting", repo="a/b@c", done=3, total=3), "starting a/b"),
        (Progress(stage="loading", repo="a/b@c"), "loading a/b"),
        (Progress(stage="downloading", repo="a/b@c", place=3), "waiting for a/b, number 3 in line"),
    ],
)
def test_a_beat_says_how_far_it_is(progress: Progress, words: str) -> None:
    """The name without the commit, per cent and speed once they are known, or the place in the line."""
    assert describe(progress) == words


async def test_the_caller_is_told_and_then_answered(start_edge: StartEdge) -> None:
    """Comments while it loads, then exactly the engine's bytes."""
    edge = await start_edge(SOON)
    held = Loading(edge.backend.make_warm)
    edge.backend.then(held)
    stream = Stream(count=3).finish()
    edge.engine.then(stream)
    async with RawClient.connect(edge.port) as client:
        await client.send(SENT)
        await held.waiting.wait()
        seen = await client.until(b": hubgate loading demo/public-lora 43% 12.1 MB/s\n\n")
        assert b"HTTP/1.1 200 OK" in seen
        assert b"text/event-stream" in seen
        assert b"X-Request-Id" in seen
        held.release()
        rest = await client.until(b"\r\n0\r\n\r\n")
    assert DONE in rest
    assert all(event in rest for event in bytes(stream.sent).split(b"\n\n"))
    (record,) = await edge.records(1, "request.done")
    assert (record["status"], record["reason"], record["temperature"]) == (200, "ok", "cold")


async def test_the_sdk_passes_the_beats_over(start_edge: StartEdge) -> None:
    """The unmodified SDK sees the answer, and nothing of the wait."""
    edge = await start_edge(SOON)
    held = Loading(edge.backend.make_warm)
    edge.backend.then(held)
    edge.engine.then(Stream(count=3).finish())
    asking = asyncio.create_task(
        edge.sdk().chat.completions.create(
            model=PUBLIC, messages=[{"role": "user", "content": "x"}], stream=True
        )
    )
    stream = await asking  # the head comes with the first beat, before the load has ended
    held.release()
    assert [event.choices[0].delta.content async for event in stream] == ["t0", "t1", "t2"]


async def failing(edge: Edge) -> bytes:
    """All that a caller sees of a stream that fails after the first beat."""
    async with RawClient.connect(edge.port) as client:
        await client.send(SENT)
        seen = await client.until(b"MB/s\n\n")
        return seen + await client.rest()


async def test_a_failure_after_the_first_beat_is_an_event(start_edge: StartEdge) -> None:
    """The status is sent by then: the error is told in the stream, which ends without its last chunk."""
    edge = await start_edge(SOON)
    held = Loading(says(LoadFailed(code="rejected", message="pickle only")))
    edge.backend.then(held)
    asking = asyncio.create_task(failing(edge))
    await held.waiting.wait()

    async def beaten() -> None:
        async with asyncio.timeout(5):
            while await edge.metric("hubgate_in_flight_requests") < 1:
                pass

    await beaten()
    await asyncio.sleep(0.05)  # a beat, which no event marks
    held.release()
    seen = await asking
    assert seen.count(b"HTTP/1.1") == 1
    assert b'"code":"adapter_rejected"' in seen
    assert not seen.endswith(b"0\r\n\r\n")
    (record,) = await edge.records(1, "request.done")
    assert (record["status"], record["reason"]) == (200, "adapter_rejected")


async def test_the_sdk_raises_what_the_event_says(start_edge: StartEdge) -> None:
    """A failed load is an exception of the SDK's also after the beats."""
    edge = await start_edge(SOON)
    held = Loading(says(LoadFailed(code="rejected", message="pickle only")))
    edge.backend.then(held)
    stream = await edge.sdk().chat.completions.create(
        model=PUBLIC, messages=[{"role": "user", "content": "x"}], stream=True
    )
    held.release()
    with pytest.raises(openai.APIError, match="pickle only"):
        async for _ in stream:
            pass


async def test_an_engine_that_refuses_after_the_beats(start_edge: StartEdge) -> None:
    """The engine's own refusal is an event as well."""
    edge = await start_edge(SOON)
    held = Loading(edge.backend.make_warm)
    edge.backend.then(held)
    edge.engine.then(refusal(400, "too long"))
    stream = await edge.sdk().chat.completions.create(
        model=PUBLIC, messages=[{"role": "user", "content": "x"}], stream=True
    )
    held.release()
    with pytest.raises(openai.APIError, match="too long"):
        async for _ in stream:
            pass


async def test_what_is_decided_sooner_has_a_status(start_edge: StartEdge) -> None:
    """Refusals that come before the first beat are ordinary errors, for streams too."""
    edge = await start_edge({"cold_start": {"heartbeat_after": 30}})
    edge.backend.then(says(LoadFailed(code="rejected", message="pickle only")))
    answer = await edge.chat(PUBLIC, stream=True)
    assert (answer.status, answer.code) == (422, "adapter_rejected")


async def test_a_plain_request_hears_no_beats(start_edge: StartEdge) -> None:
    """Its answer is one JSON, so it waits, and is told to come back when that takes too long."""
    edge = await start_edge({"cold_start": {"heartbeat_after": 0.01, "plain_wait": 0.1}})
    edge.backend.then(Loading(edge.backend.make_warm))
    answer = await edge.chat(PUBLIC)
    assert (answer.status, answer.code, answer.header("Retry-After")) == (503, "model_loading", "30")


async def test_a_stream_waits_longer_than_a_plain_request(start_edge: StartEdge) -> None:
    """`plain_wait` is not for who is told that it goes on; `timeout` is."""
    edge = await start_edge({"cold_start": {"heartbeat_after": 0.01, "plain_wait": 0.01, "timeout": 0.1}})
    edge.backend.then(Loading(edge.backend.make_warm))
    answer = await edge.chat(PUBLIC, stream=True)
    assert (answer.status, answer.complete) == (200, False)
    assert b'"code":"model_loading"' in answer.body


async def test_a_caller_who_leaves_during_the_beats(start_edge: StartEdge) -> None:
    """The load is left to whoever else waits for it."""
    edge = await start_edge(SOON)
    held = Loading(edge.backend.make_warm)
    edge.backend.then(held)
    async with RawClient.connect(edge.port) as client:
        await client.send(SENT)
        await client.until(b"MB/s\n\n")
    async with asyncio.timeout(5):
        await held.cancelled.wait()
    (record,) = await edge.records(1, "request.done")
    assert (record["status"], record["reason"]) == (499, "client_left")
    assert (await edge.chat(BASE)).status == 200
