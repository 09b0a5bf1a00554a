"""The path of a good request: what the engine receives is exactly what was authorized."""

import pytest
from openai import OpenAIError

from hubgate.wire.seal import verify_grant
from tests.cases import each
from tests.fakes.engine import Received
from tests.fakes.running_proxy import ALICE, BASE, BOB, CHAT, MESSAGES, Edge

OURS = {
    "host",
    "user-agent",
    "content-type",
    "content-length",
    "accept-encoding",
    "x-hubgate-grant",
    "x-request-id",
}


def last(edge: Edge) -> Received:
    return edge.engine.requests[-1]


async def test_the_sdk_gets_its_answer(edge: Edge) -> None:
    """The unmodified SDK works, and the answer names the commit that answered."""
    answer = await edge.sdk(BOB).chat.completions.create(
        model=BASE, messages=[{"role": "user", "content": "x"}]
    )
    assert answer.choices[0].message.content == "hi"
    assert answer.model == edge.at(BASE)
    assert answer.usage is not None
    assert answer.usage.total_tokens == 5
    plain = await edge.sdk(BOB).completions.create(model=BASE, prompt="x")
    assert plain.choices[0].text == "hi"


async def test_the_engine_gets_what_was_authorized(edge: Edge) -> None:
    """The body is the caller's, under the pinned name and with the proxy's salt, and nothing else."""
    await edge.chat(temperature=0.5, stop=["a"])
    body = last(edge).json()
    assert body.pop("model") == edge.at(BASE)
    salt = body.pop("cache_salt")
    assert len(salt) == 32
    assert body == {"messages": MESSAGES, "temperature": 0.5, "stop": ["a"]}
    assert last(edge).line == f"POST {CHAT} HTTP/1.1"


async def test_each_caller_has_a_salt_of_their_own(edge: Edge) -> None:
    """Prefix caches are not shared between callers, and are between the requests of one."""
    for token in (ALICE, ALICE, BOB):
        await edge.chat(token=token)
    salts = [request.json()["cache_salt"] for request in edge.engine.requests]
    assert salts[0] == salts[1] != salts[2]


async def test_the_grant_is_good_for_this_model_and_engine(edge: Edge) -> None:
    """The engine can check who may use what; the grant's pseudonym is not the name."""
    await edge.chat()
    hosted = edge.backend.hosted[0]
    value = last(edge).header("x-hubgate-grant")
    assert value is not None
    keys = edge.backend.ring.proxies
    grant = verify_grant(value, keys, aud=hosted.id, boot=hosted.boot, now=edge.hub.state.clock())
    assert (grant.kind, grant.model) == ("use", edge.at(BASE))
    assert "alice" not in grant.sub


HOSTILE_HEADERS = [
    ("X-Hubgate-Grant", "theirs"),
    ("X_Hubgate_Grant", "theirs"),
    ("x-hubgate-grant", "theirs"),
    ("Connection", "keep-alive, X-Hubgate-Grant, X-Request-Id"),
    ("Cookie", "theirs"),
    ("Proxy-Authorization", "theirs"),
    ("X-Api-Key", "theirs"),
    ("X-Forwarded-For", "theirs"),
    ("X-Forwarded-Uri", "/health"),
    ("X-Original-URL", "/health"),
    ("X-Amzn-SageMaker-Adapter-Identifier", "theirs"),
    ("X-Data-Parallel-Rank", "1"),
    ("OpenAI-Organization", "theirs"),
    ("Accept-Encoding", "gzip"),
    ("User-Agent", "kube-probe/1.29"),
    ("Upgrade", "h2c"),
]


async def test_no_header_of_theirs_gets_through(edge: Edge) -> None:
    """The engine sees our headers and those of tracing: no credential, no forged grant, nothing unknown."""
    tracing = [
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("tracestate", "a=b"),
    ]
    body = b'{"model": "demo/tiny-llama", "messages": []}'
    others = [(name, value) for name, value in HOSTILE_HEADERS if not name.lower().endswith("api-key")]
    second = await edge.ask("POST", CHAT, headers=HOSTILE_HEADERS, body=body)
    assert (second.status, edge.engine.requests) == (400, [])  # another credential
    answer = await edge.ask("POST", CHAT, headers=[*others, *tracing], body=body)
    assert answer.status == 200
    sent = last(edge)
    assert {name for name, _ in sent.headers} == OURS | {"traceparent", "tracestate"}
    assert b"theirs" not in sent.raw
    assert ALICE.encode() not in sent.raw
    assert sent.header("x-hubgate-grant")
    assert sent.header("accept-encoding") == "identity"


@each("extra", HOSTILE_HEADERS)
async def test_no_header_skips_authentication(edge: Edge, extra: tuple[str, str]) -> None:
    """No probe's user agent and no forwarded path stands for a credential."""
    answer = await edge.ask("GET", "/v1/models", token=None, headers=[extra])
    assert (answer.status, answer.code) == (401, "invalid_api_key")
    assert answer.header("WWW-Authenticate") == "Bearer"
    assert edge.hub_calls() == []


async def test_request_ids(edge: Edge) -> None:
    """A sane id comes back and goes up; any other is replaced, in answers and in errors."""
    for inbound, kept in (("my-request-1", True), ("x", False), ("a" * 200, False), ("a b c d e f", False)):
        answer = await edge.ask("GET", "/v1/models", headers=[("X-Request-Id", inbound)])
        assert (answer.header("X-Request-Id") == inbound) is kept
        assert answer.header("X-Request-Id")
        refused = await edge.ask("GET", "/nowhere", headers=[("X-Request-Id", inbound)])
        assert (refused.header("X-Request-Id") == inbound) is kept
    await edge.chat()
    assert str(last(edge).header("x-request-id")).startswith("req-")


async def test_headers_of_an_answer(edge: Edge) -> None:
    """A good answer carries its times and what is left of the rate; nothing of the engine's own."""
    answer = await edge.chat()
    assert str(answer.header("Server-Timing")).startswith("auth;dur=")
    assert answer.header("x-ratelimit-remaining-requests") == "599"
    assert answer.header("Server") == "hubgate"


async def test_a_doubled_bearer_is_taken_and_counted(edge: Edge) -> None:
    """`Bearer Bearer hf_…` works and shows in a metric of its own."""
    assert (await edge.chat(token=f"Bearer {ALICE}")).status == 200
    assert await edge.metric("hubgate_doubled_bearers_total") == 1
    assert (await edge.chat(token=f"Bearer Bearer {ALICE}")).status == 401


async def test_health_says_nothing_but_alive(edge: Edge) -> None:
    """The public probe needs no credential, asks nobody and is not audited."""
    answer = await edge.ask("GET", "/health", token=None)
    assert (answer.status, answer.json()) == (200, {"status": "alive"})
    head = await edge.ask("HEAD", "/health", token=None)
    assert (head.status, head.body) == (200, b"")
    assert head.header("Content-Length") == str(len(answer.body))
    assert edge.hub_calls() == []
    assert edge.settings.audit.path.read_bytes() == b""


async def test_head_is_get_without_a_body(edge: Edge) -> None:
    """HEAD of a listing needs a credential and has no body."""
    assert (await edge.ask("HEAD", "/v1/models", token=None)).status == 401
    answer = await edge.ask("HEAD", "/v1/models")
    assert (answer.status, answer.body) == (200, b"")


async def test_the_admin_port(edge: Edge) -> None:
    """Probes tell life and readiness; nothing of the public port is there, and the reverse."""
    assert await edge.admin("/livez") == (200, "alive\n")
    assert await edge.admin("/readyz") == (200, "ready\n")
    assert (await edge.admin("/v1/models"))[0] == 404
    for path in ("/metrics", "/livez", "/readyz"):
        assert (await edge.ask("GET", path)).status == 404
    await edge.backend.down()
    await edge.until_down()
    assert await edge.admin("/readyz") == (503, "no upstream is up\n")


async def test_retries_of_the_sdk_are_told_when_they_help(edge: Edge) -> None:
    """The SDK does not repeat what cannot succeed."""
    with pytest.raises(OpenAIError):
        await edge.sdk("hf_demo_unknown", max_retries=3).models.list()
    assert edge.hub_calls() == ["GET /api/whoami-v2"]
    assert await edge.metric("hubgate_requests_total") == 1
