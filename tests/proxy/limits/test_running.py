"""Limits as callers meet them: through the real proxy, with the unmodified OpenAI SDK."""

import asyncio
import base64
import hashlib
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import anyio
import msgspec
import openai
import pytest
import yaml
from structlog.testing import capture_logs

from hubgate.proxy import app
from hubgate.proxy.settings import ProxySettings
from hubgate.runtime.config import load
from hubgate.wire.seal import CLAIMS
from tests.fakes.answers import Stream
from tests.fakes.clock import Clock
from tests.fakes.running_proxy import ALICE, BASE, BOB, MESSAGES, PRIVATE, PUBLIC, Edge
from tests.proxy.conftest import StartEdge

PER_ANSWER = 5  # tokens that the fake engine's completion counts: three and two
KEY = "local-key-of-ci-0123456789"


async def create(edge: Edge, token: str = ALICE, **options: Any) -> Any:
    """One completion by the SDK, with its headers."""
    fields: Any = {"model": BASE, "messages": MESSAGES}
    return await edge.sdk(token, **options).chat.completions.with_raw_response.create(**fields)


def reload(edge: Edge, **limits: Any) -> list[Any]:
    """Change `limits` in the configuration file and do what SIGHUP does; gives what was logged."""
    settings = yaml.safe_load(edge.config.read_text())
    edge.config.write_text(yaml.safe_dump({**settings, "limits": limits}))
    with capture_logs() as logged:
        edge.proxy.reloader.reload(lambda: load(ProxySettings, edge.config))
    return list(logged)


async def test_every_good_answer_tells_what_is_left(start_edge: StartEdge) -> None:
    """Requests count when they come, tokens when the answer has ended: the next answer shows them."""
    edge = await start_edge({"limits": {"requests_per_minute": 9, "tokens_per_minute": 100}})
    for number in (1, 2):
        headers = (await create(edge)).headers
        assert headers["x-ratelimit-limit-requests"] == "9"
        assert headers["x-ratelimit-remaining-requests"] == str(9 - number)
        assert headers["x-ratelimit-limit-tokens"] == "100"
        assert headers["x-ratelimit-remaining-tokens"] == str(100 - PER_ANSWER * (number - 1))
        assert headers["x-ratelimit-reset-requests"] in ("1m0s", "59s", "58s", "57s", "56s", "55s")
        assert (headers["x-ratelimit-reset-tokens"] == "0s") == (number == 1)
    listed = await edge.ask("GET", "/v1/models")
    assert listed.header("x-ratelimit-remaining-tokens") == str(100 - PER_ANSWER * 2)


async def test_tokens_that_are_used_up(start_edge: StartEdge) -> None:
    """The SDK raises its RateLimitError; the engine hears nothing more, and other callers notice nothing."""
    edge = await start_edge({"limits": {"tokens_per_minute": PER_ANSWER + 1}})
    for _ in range(2):
        await create(edge)
    with pytest.raises(openai.RateLimitError) as caught:
        await create(edge)
    assert caught.value.code == "rate_limit_exceeded"
    assert "tokens" in caught.value.message
    headers = caught.value.response.headers
    assert headers["x-ratelimit-remaining-tokens"] == "0"
    assert 1 <= int(headers["retry-after"]) <= 60
    assert "x-should-retry" not in headers
    assert (await edge.chat(token=BOB)).status == 200
    assert len(edge.engine.requests) == 3
    (denied,) = [record for record in await edge.records(4) if record["status"] == 429]
    assert (denied["user"], denied["reason"]) == ("alice", "rate_limit_exceeded")


async def test_streams_are_charged(start_edge: StartEdge) -> None:
    """The usage at the end of a stream counts like a plain answer's."""
    edge = await start_edge({"limits": {"tokens_per_minute": 100}})
    edge.engine.then(Stream(count=7, usage=True).finish())
    fields: Any = {"model": BASE, "messages": MESSAGES, "stream_options": {"include_usage": True}}
    stream = await edge.sdk().chat.completions.create(stream=True, **fields)
    assert [chunk async for chunk in stream]
    assert (await create(edge)).headers["x-ratelimit-remaining-tokens"] == "90"


async def test_the_sdk_waits_as_it_is_told(tmp_path: Path) -> None:
    """A caller who comes back after Retry-After, and not later, is served; the SDK does so by itself."""
    clock, waits = Clock(), list[float]()

    async def wait(seconds: float) -> None:
        waits.append(seconds)
        clock.advance(seconds)

    settings = {"limits": {"requests_per_minute": 1}}
    clocks = app.Clocks(now=time.time, monotonic=clock)
    async with Edge.start(tmp_path, settings, clocks=clocks) as edge:
        assert (await edge.chat()).status == 200
        clock.advance(17.3)
        with patch.object(anyio, "sleep", wait):
            answer = await create(edge, max_retries=1)
    assert answer.status_code == 200
    assert waits == [43]


async def test_a_step_of_the_wall_clock_changes_no_limit(tmp_path: Path) -> None:
    """Set back or forward by an hour, it neither lets anybody in early nor keeps them out."""
    wall, settings = Clock(time.time()), {"limits": {"requests_per_minute": 3}}
    async with Edge.start(tmp_path, settings, clocks=app.Clocks(now=wall)) as edge:
        for step, status in ((0, 200), (-3600, 200), (7200, 200), (-3600, 429), (3600, 429)):
            wall.advance(step)
            answer = await edge.ask("GET", "/v1/models")
            assert answer.status == status
            reset = answer.header("x-ratelimit-reset-requests") or ""
            assert reset == "1m0s" or 0 < int(reset.removesuffix("s")) < 60
        assert 1 <= int(answer.header("Retry-After") or "0") <= 60


async def test_a_refused_load_tells_what_is_left(start_edge: StartEdge) -> None:
    """A 429 for too many cold models carries the headers of the other limits too, and stays a 429."""
    edge = await start_edge({"limits": {"cold_loads_per_hour": 1, "requests_per_minute": 10}})
    assert (await edge.chat(PUBLIC)).status == 200
    for left in ("8", "7"):
        refused = await edge.chat(PRIVATE)
        assert (refused.status, refused.header("x-ratelimit-remaining-requests")) == (429, left)
    assert len(edge.backend.asked) == 1


async def test_a_caller_is_throttled_by_a_reload(start_edge: StartEdge) -> None:
    """SIGHUP with an override counts from the next request on, for that caller only, and back again."""
    edge = await start_edge()
    for token in (ALICE, BOB):
        assert (await edge.chat(token=token)).status == 200
    (logged,) = reload(edge, overrides={"users": {"alice": {"requests_per_minute": 1}}})
    assert (logged["changed"], logged["need_restart"]) == (["limits"], [])
    assert (await edge.chat()).status == 429
    assert (await edge.chat(token=BOB)).status == 200
    reload(edge, overrides={"orgs": {"acme": {"requests_per_minute": 7}}})  # alice is a member
    assert (await edge.chat()).header("x-ratelimit-limit-requests") == "7"
    reload(edge)
    assert (await edge.chat()).header("x-ratelimit-limit-requests") == "600"


async def test_another_storage_needs_a_restart(start_edge: StartEdge) -> None:
    """Counts are not carried over while it runs, and each reload says so; the numbers are taken anyway."""
    edge = await start_edge()
    for per_minute in (7, 5):
        (logged,) = reload(edge, storage="redis://127.0.0.1:1/0", requests_per_minute=per_minute)
        assert (logged["changed"], logged["need_restart"]) == (["limits"], ["limits.storage"])
    assert (await edge.chat()).header("x-ratelimit-limit-requests") == "5"


async def test_a_key_has_limits_of_its_own(start_edge: StartEdge, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local key's `limits` are its own; the others are everybody's."""
    monkeypatch.setenv("HF_TOKEN", "hf_demo_service")
    entry = {"name": "ci", "sha256": hashlib.sha256(KEY.encode()).hexdigest(), "token": "service"}
    edge = await start_edge({"keys": [{**entry, "models": ["demo/*"], "limits": {"requests_per_minute": 1}}]})
    answers = [await edge.chat(token=KEY) for _ in range(2)]
    assert [answer.status for answer in answers] == [200, 429]
    assert answers[0].header("x-ratelimit-limit-tokens") == "1000000"
    assert (await edge.chat()).header("x-ratelimit-limit-requests") == "600"


async def test_memory_is_always_up(edge: Edge) -> None:
    """An alert on the storage does not fire where none is needed."""
    assert await edge.metric("hubgate_limits_storage_up") == 1


async def test_many_answers_to_one_request_count_as_many_requests(start_edge: StartEdge) -> None:
    """While eight are under way there is room for two more and nothing heavier; others have their own."""
    edge = await start_edge({"limits": {"concurrent_requests": 10}})
    edge.engine.then(stream := Stream())
    asking = asyncio.create_task(edge.chat(stream=True, n=8))
    await edge.engine.received(1)
    refused = await edge.chat(n=3)
    assert (refused.status, refused.code) == (429, "rate_limit_exceeded")
    assert refused.header("retry-after") == "1"
    assert refused.header("x-ratelimit-limit-requests") == "600"
    assert (await edge.chat(logprobs=True, top_logprobs=10)).code == "rate_limit_exceeded"
    assert (await edge.chat(n=2)).status == 200
    assert (await edge.chat(token=BOB, n=8)).status == 200
    stream.finish()
    assert (await asking).status == 200
    assert (await edge.chat(n=8)).status == 200


async def test_an_engine_is_told_a_callers_weight_and_how_long_to_wait(start_edge: StartEdge) -> None:
    """From the next request on after SIGHUP; an engine of an older release is told neither."""
    edge = await start_edge({"limits": {"overrides": {"users": {"alice": {"weight": 300}}}}})
    await create(edge)
    assert _told(edge) == (None, None)
    edge.backend.hosted[0].claims = CLAIMS
    await edge.backend.greeted(2)
    await create(edge)
    assert _told(edge) == (None, None)  # a grant is reused for as long as it was signed for
    await create(edge, BOB)
    assert _told(edge) == (None, 60)
    reload(edge, queue_seconds=5, overrides={"users": {"bob": {"weight": 50}}})
    await create(edge, BOB)
    assert _told(edge) == (50, 5)


def _told(edge: Edge) -> tuple[object, object]:
    """The optional claims in the last grant that reached the engine."""
    grant = edge.engine.requests[-1].header("x-hubgate-grant") or ""
    claims = msgspec.json.decode(base64.urlsafe_b64decode(grant.split(".")[1] + "=="))
    return claims.get("weight"), claims.get("patience")
