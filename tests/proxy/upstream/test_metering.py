"""Streams are always counted; who did not ask for the counts does not see them."""

from typing import Any

import msgspec
import pytest

from hubgate.proxy.metrics.registry import MAX_USERS, Metrics
from tests.fakes.answers import DONE, Stream, chunk, event, head, raw, refusal, silent, whole
from tests.fakes.raw import RawClient, request
from tests.fakes.running_proxy import ALICE, BASE, BOB, CHAT, MESSAGES, Edge
from tests.proxy.conftest import StartEdge

SSE = [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")]
TEXT = event({"choices": [{"index": 0, "delta": {"content": "hi"}}]})
USAGE = event({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}})
STREAM = raw(head(200, SSE) + chunk(TEXT) + chunk(USAGE) + chunk(DONE) + chunk(b""))


@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}, {"continuous_usage_stats": False}])
async def test_usage_is_asked_for_and_withheld(edge: Edge, options: dict[str, bool] | None) -> None:
    """The engine is asked, the caller gets every byte but that event, and audit and metrics have it."""
    edge.engine.then(STREAM)
    answer = await edge.chat(stream=True, stream_options=options)
    assert (answer.body, answer.complete) == (TEXT + DONE, True)
    assert edge.engine.requests[0].json()["stream_options"] == {**(options or {}), "include_usage": True}
    (record,) = await edge.records(1)
    assert (record["prompt_tokens"], record["completion_tokens"]) == (3, 2)
    assert record["bytes_out"] == len(TEXT + DONE)
    assert await edge.metric("hubgate_tokens_total", kind="prompt") == 3


async def test_who_asks_for_usage_gets_it(edge: Edge) -> None:
    """The event passes as it is."""
    edge.engine.then(STREAM)
    answer = await edge.chat(stream=True, stream_options={"include_usage": True})
    assert answer.body == TEXT + USAGE + DONE


async def test_a_plain_request_has_no_stream_options(edge: Edge) -> None:
    """The engine refuses them without `stream`."""
    await edge.chat()
    assert "stream_options" not in edge.engine.requests[0].json()


async def test_the_sdk_sees_no_event_without_choices(edge: Edge) -> None:
    """Code that reads `choices[0]` of every event, as most does, goes on working."""
    edge.engine.then(STREAM)
    stream = await edge.sdk().chat.completions.create(
        model=BASE, messages=[{"role": "user", "content": "x"}], stream=True
    )
    assert [part.choices[0].delta.content async for part in stream] == ["hi"]


async def test_a_stream_counts_towards_the_limit(start_edge: StartEdge) -> None:
    """Tokens per minute hold for streams whose caller asked for no counts."""
    edge = await start_edge({"limits": {"tokens_per_minute": 4}})
    edge.engine.then(STREAM)
    assert (await edge.chat(stream=True)).status == 200
    await edge.records(1)
    assert (await edge.chat()).code == "rate_limit_exceeded"


async def test_who_leaves_a_stream_is_charged(start_edge: StartEdge) -> None:
    """Hanging up before the counts come is not free: a token an event, and the prompt by its length."""
    edge = await start_edge({"limits": {"tokens_per_minute": 20}})
    stream = Stream(count=10)
    edge.engine.then(stream)
    body = msgspec.json.encode({"model": BASE, "messages": MESSAGES, "stream": True})
    async with RawClient.connect(edge.port) as client:
        await client.send(request("POST", CHAT, [("Authorization", f"Bearer {ALICE}")], body))
        await edge.engine.received(1)
        stream.step(5)
        await client.until(b"t4")
    (record,) = await edge.records(1)
    assert record["status"] == 499
    assert (record["prompt_tokens"], record["completion_tokens"]) == (len(body) // 4, 5)
    assert record["tokens_estimated"]
    assert (await edge.chat()).code == "rate_limit_exceeded"


@pytest.mark.parametrize(
    ("path", "asked", "told", "tokens"),
    [
        ("/tokenize", {"prompt": "x" * 400}, {"count": 300, "max_model_len": 512, "tokens": [1] * 300}, 300),
        ("/v1/messages/count_tokens", {"messages": MESSAGES}, {"input_tokens": 300}, 300),
        ("/detokenize", {"tokens": [100] * 300}, {"prompt": "x" * 300}, None),
    ],
)
async def test_counting_tokens_is_charged(
    start_edge: StartEdge, path: str, asked: dict[str, Any], told: dict[str, Any], tokens: int | None
) -> None:
    """It costs the engine's processor: by what the answer tells, or else by the length of what was asked."""
    edge = await start_edge({"limits": {"tokens_per_minute": 299}})
    edge.engine.then(raw(whole(200, msgspec.json.encode(told))))
    assert (await edge.post(path, {"model": BASE, **asked})).status == 200
    (record,) = await edge.records(1)
    assert record["prompt_tokens"] == tokens or (tokens is None and record["prompt_tokens"] >= 299)
    assert (await edge.post(path, {"model": BASE, **asked})).code == "rate_limit_exceeded"


async def test_a_refused_count_is_not_charged(edge: Edge) -> None:
    """Only what the engine did is."""
    edge.engine.then(refusal(400))
    assert (await edge.post("/tokenize", {"model": BASE, "prompt": "x"})).status == 400
    (record,) = await edge.records(1)
    assert record.get("prompt_tokens") is None


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/tokenize", {"prompt": "x" * 400}),
        (CHAT, {"messages": MESSAGES, "user": "x" * 400}),
        (CHAT, {"messages": MESSAGES, "user": "x" * 400, "stream": True}),
        ("/v1/completions", {"prompt": "x" * 400}),
        ("/v1/messages", {"messages": MESSAGES, "max_tokens": 9, "system": "x" * 400}),
        ("/v1/embeddings", {"input": "x" * 400}),
    ],
)
async def test_who_leaves_before_an_answer_is_charged(
    start_edge: StartEdge, path: str, asked: dict[str, Any]
) -> None:
    """The engine has worked for them, whoever has left: the prompt by its length."""
    edge = await start_edge({"limits": {"tokens_per_minute": 100}})
    edge.engine.then(silent())
    body = msgspec.json.encode({"model": BASE, **asked})
    async with RawClient.connect(edge.port) as client:
        await client.send(request("POST", path, [("Authorization", f"Bearer {ALICE}")], body))
        await edge.engine.received(1)
    (record,) = await edge.records(1)
    assert (record["status"], record["prompt_tokens"]) == (499, len(body) // 4)
    assert record["tokens_estimated"]
    assert (await edge.chat()).code == "rate_limit_exceeded"


async def test_a_whole_stream_is_no_estimate(edge: Edge) -> None:
    """Where the engine counted, its counts stand."""
    edge.engine.then(STREAM)
    await edge.chat(stream=True)
    (record,) = await edge.records(1)
    assert "tokens_estimated" not in record


@pytest.mark.parametrize("wanted", [True, False])
async def test_users_are_counted_by_name_only_if_wanted(start_edge: StartEdge, *, wanted: bool) -> None:
    """`metrics.per_user` puts names into the metrics; without it there are none."""
    edge = await start_edge({"metrics": {"per_user": wanted}})
    for token in (ALICE, ALICE, BOB):
        assert (await edge.chat(token=token)).status == 200
    assert await edge.metric("hubgate_user_requests_total", user="alice") == (2 if wanted else 0)
    assert await edge.metric("hubgate_user_tokens_total", user="bob", kind="prompt") == (3 if wanted else 0)
    assert ("alice" in (await edge.admin("/metrics"))[1]) is wanted


def test_users_beyond_a_thousand_share_one_series() -> None:
    """A crowd of users makes no crowd of series."""
    metrics = Metrics()
    for number in range(MAX_USERS + 50):
        metrics.user(f"user-{number}", 1, 1)
    assert metrics.expose().count(b"hubgate_user_requests_total{") == MAX_USERS + 1
    assert metrics.user_requests.labels("(other)").value == 50
