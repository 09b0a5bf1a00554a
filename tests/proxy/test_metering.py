"""Streams are always counted; who did not ask for the counts does not see them."""

import pytest

from tests.fakes.answers import DONE, chunk, event, head, raw
from tests.fakes.edge import BASE, Edge
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
