"""The judges themselves: each finds what it is there for."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from time import time
from typing import Any

import pytest

from hubgate.wire.seal import Grant, sign_grant
from tests.cases import each
from tests.fakes.answers import chunk, whole
from tests.fakes.keyring import Keyring
from tests.fakes.raw import RawClient, request
from tests.fakes.running_proxy import ALICE, CHAT
from tests.fuzz.checks import Checker
from tests.fuzz.engine import Had, StrictEngine
from tests.fuzz.reading import readings
from tests.proxy.http.speech import CHUNKED, HEALTH, HOST, LINE, chunked, head, post

MODEL = "demo/tiny-llama@" + "a" * 40
ALIVE = whole(200, b'{"status":"alive"}')


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[StrictEngine]:
    """An engine that believes the keys in this folder."""
    async with StrictEngine.start() as running:
        running.keys = Keyring.make(tmp_path).proxies
        running.aud, running.boot = "strict", "boot"
        yield running


def granted(tmp_path: Path, model: str = MODEL) -> tuple[str, str]:
    """A grant for a model, as the header that carries it."""
    now = int(time())
    life: Any = {"iat": now, "exp": now + 30}
    one = Grant(kind="use", sub="s", model=model, aud="strict", boot="boot", jti="j", **life)
    return "X-Hubgate-Grant", sign_grant(one, Keyring.make(tmp_path).proxy.signing)


async def had(engine: StrictEngine, data: bytes) -> list[str]:
    """Send this to the engine, and end. Gives its faults."""
    async with RawClient.connect(engine.port) as client:
        await client.send(data)
        await client.read()
    faults, engine.faults = engine.faults, []
    return faults


BODY = json.dumps({"model": MODEL, "messages": []}).encode()


async def test_the_engine_answers_what_is_plain(engine: StrictEngine, tmp_path: Path) -> None:
    """A request as the proxy sends it is no fault, and its number is told."""
    data = request("POST", CHAT, [granted(tmp_path), ("X-Request-Id", "the-first-one")], BODY)
    assert await had(engine, data) == []
    assert engine.had[1] == Had(CHAT, "the-first-one", MODEL, {"model": MODEL, "messages": []}, None)


@each(
    ("more", "body", "told"),
    {
        "another length": ([("Content-Length", "5"), ("Content-Length", "6")], BODY, "Content-Length"),
        "a length and chunks": (
            [("Content-Length", "5"), ("Transfer-Encoding", "chunked")],
            chunk(BODY) + chunk(b""),
            "no plain request",
        ),
        "a folded header": ([("Accept", "a\r\n b")], BODY, "no plain request"),
        "a bare line feed": ([("Accept", "a\nTraceparent: b")], BODY, "no plain request"),
        "an unknown header": ([("Cookie", "a=b")], BODY, "is not sent"),
        "an id twice": ([("X-Request-Id", "b")], BODY, "stands twice"),
        "a key twice": ([], BODY[:-1] + b',"n":1,"n":2}', "DoubleKeyError"),
        "NaN": ([], BODY[:-1] + b',"n":NaN}', "ValueError"),
        "another model": ([], BODY.replace(b"tiny", b"tidy"), "no grant"),
    }.values(),
)
async def test_the_engine_finds(
    engine: StrictEngine, tmp_path: Path, more: list[tuple[str, str]], body: bytes, told: str
) -> None:
    """What can be read in two ways, or was not granted, is a fault."""
    headers = [granted(tmp_path), ("X-Request-Id", "the-first-one"), *more]
    (fault,) = await had(engine, request("POST", CHAT, headers, body))
    assert told in fault


def answer(status: int, code: str, message: str = "", name: str = "some-request") -> bytes:
    """A refusal."""
    body = json.dumps({"error": {"code": code, "message": message}}).encode()
    told = f"HTTP/1.1 {status} No\r\nX-Request-Id: {name}\r\nContent-Length: {len(body)}\r\n\r\n"
    return told.encode() + body


NO_HTTP = answer(400, "invalid_request", "This is not HTTP/1.1 as RFC 9112 defines it.")


@each(
    ("sent", "seen", "told"),
    {
        "an answer to nothing": (b"", ALIVE, "h11 has no request"),
        "an answer to what h11 refuses": (b"GET /health HTTP/1.1\r\n\r\n", ALIVE, "h11 has no request"),
        "two answers to one": (HEALTH, ALIVE * 2, "h11 has no request"),
        "an answer after the last": (
            head(b"GET /health HTTP/1.1", HOST, b"Connection: close") + HEALTH,
            ALIVE * 2,
            "follows a last request",
        ),
        "an answer after half a body": (
            post(length=b"Content-Length: 9999") + HEALTH,
            answer(401, "invalid_api_key") + ALIVE,
            "h11 has no request",
        ),
        "an answer after no HTTP": (HEALTH * 2, NO_HTTP + ALIVE, "more comes"),
        "a fault of ours": (post(), answer(500, "internal_error"), "500"),
        "a status of another code": (post(), answer(403, "invalid_api_key"), "undocumented"),
        "a code of none": (post(), answer(400, "odd"), "undocumented"),
        "half an answer": (HEALTH, ALIVE[:-3], "no answer"),
        "a head of none": (HEALTH, b"junk", "no answer"),
        "somebody else's answer": (
            post(b"X-Request-Id: the-first-one"),
            answer(403, "access_denied", name="the-other-one"),
            "is answered as",
        ),
        "what the engine did not have": (post(), whole(200, b'{"id":"7"}'), "did not have"),
        "good news of no endpoint": (head(b"GET /x HTTP/1.1", HOST), ALIVE, "200 for"),
    }.values(),
)
def test_a_wrong_answer_is_found(sent: bytes, seen: bytes, told: str) -> None:
    """Each kind of it, by its own words."""
    faults = list(Checker(StrictEngine()).faults(sent, seen))
    assert [fault for fault in faults if told in fault], faults


SENT: dict[str, Any] = {"model": MODEL, "messages": []}


@each(
    ("was", "told"),
    {
        "nothing": (Had(CHAT, "some-request", MODEL, SENT, None), ""),
        "the path": (Had("/x", "some-request", MODEL, SENT, None), "came as /x"),
        "the id": (Had(CHAT, "another", MODEL, SENT, None), "came as"),
        "the model": (Had(CHAT, "some-request", "", {**SENT, "model": "a/b"}, None), "asked for"),
        "a field": (Had(CHAT, "some-request", MODEL, {**SENT, "n": 1}, None), "another body"),
        "its type": (Had(CHAT, "some-request", MODEL, {**SENT, "messages": {}}, None), "another body"),
    }.values(),
)
def test_a_changed_request_is_found(was: Had, told: str) -> None:
    """What the engine had is held against what h11 reads, but for what the proxy sets."""
    engine = StrictEngine()
    engine.had[7] = was
    body = b'{"id":"7"}'
    seen = b"HTTP/1.1 200 OK\r\nX-Request-Id: some-request\r\nContent-Length: 10\r\n\r\n" + body
    sent = post(b"X-Request-Id: some-request", body=BODY, length=b"Content-Length: %d" % len(BODY))
    faults = list(Checker(engine).faults(sent, seen))
    assert [told in fault for fault in faults] == [True] * bool(told)
    assert ALICE.encode() in sent


def test_what_h11_reads() -> None:
    """Requests in their order, up to what is none; with what a server may pass over."""
    good, rest = readings(b"\r\n" + post().replace(b" HTTP", b"  HTTP", 1) + chunked() + b"\r\n\n")
    assert [(one.path, one.complete) for one in good] == [(CHAT, True)] * 2
    assert len({one.body for one in good}) == 1
    assert rest == b""
    begun, _ = readings(HEALTH + head(LINE, HOST, CHUNKED) + b"5\r\nab")
    assert [one.complete for one in begun] == [True, False]
    nothing = b"GET /health HTTP/1.1\r\n\r\n"
    assert readings(nothing) == ([], nothing)


@each(
    ("sent", "seen", "idle"),
    {
        "all is answered": (HEALTH * 2 + b"\r\n", ALIVE * 2, True),
        "one is not": (HEALTH * 2, ALIVE, False),
        "a head has begun": (HEALTH + HEALTH[:9], ALIVE, False),
        "a body has begun": (post(length=b"Content-Length: 9999"), answer(401, "invalid_api_key"), False),
    }.values(),
)
def test_a_connection_that_waits_for_a_request_does_not_hang(sent: bytes, seen: bytes, idle: bool) -> None:
    """One that has not answered all, or waits for the rest of something, should have ended."""
    assert Checker.idle(sent, seen) is idle
