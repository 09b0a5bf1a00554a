"""Engines that lie about their framing, speak of their files, or answer in parts."""

import asyncio
import json

import pytest

from hubgate.demo.hub import DemoHub
from hubgate.wire.control_api import SHARE_USED
from tests.cases import each
from tests.fakes.answers import chunk, head, raw, refusal, whole
from tests.fakes.engine import Answer, Connection, Received
from tests.fakes.running_proxy import BASE, MESSAGES, Edge

JSON = b'{"model":"m","usage":{"prompt_tokens":1,"completion_tokens":1}}'
TYPE = ("Content-Type", "application/json")
LENGTH = ("Content-Length", str(len(JSON)))
CHUNKED = ("Transfer-Encoding", "chunked")
CHUNKS = chunk(JSON) + chunk(b"")


@each(
    "answer",
    [
        head(200, [TYPE, LENGTH, LENGTH]) + JSON,
        head(200, [TYPE, LENGTH, ("Content-Length", "3")]) + JSON,
        head(200, [TYPE, LENGTH, CHUNKED]) + CHUNKS,
        head(200, [TYPE, CHUNKED, LENGTH]) + CHUNKS,
        head(200, [TYPE, ("Content-Length", "-1")]) + JSON,
        head(200, [TYPE, ("Content-Length", "+5")]) + JSON,
        head(200, [TYPE, LENGTH, ("X-A", "a\0b")]) + JSON,
        head(200, [("Content-Type", "application/json\0"), LENGTH]) + JSON,
        head(200, [TYPE, LENGTH, ("X-A", "a" * 20_000)]) + JSON,
        head(200, [TYPE, ("Transfer-Encoding", "gzip, chunked")]) + CHUNKS,
        head(200, [TYPE, ("Transfer-Encoding", "identity")]) + JSON,
        head(200, [TYPE, CHUNKED]) + b"zz\r\n" + JSON,
        head(200, [TYPE, CHUNKED]) + b"-1\r\n" + JSON,
        head(200, [TYPE]) + JSON,
        head(200, [TYPE, ("Connection", "close")]) + JSON,
        head(200, [("Content-Type", "text/event-stream")]) + b"data: 1\n\n",
        b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + JSON,
        head(200, [TYPE, LENGTH, ("Content-Encoding", "gzip")]) + JSON,
        head(101, [("Upgrade", "x"), ("Connection", "upgrade")]),
        head(204),
        head(206, [TYPE, LENGTH]) + JSON,
        head(304),
        head(403, [LENGTH]) + JSON,
        head(429, [LENGTH]) + JSON,
        head(503, [LENGTH]) + JSON,
        JSON,
        b"\x00\x01\x02\r\n\r\n",
        b"",
    ],
)
async def test_hostile_framing_is_a_502(edge: Edge, answer: bytes) -> None:
    """Whatever cannot be told to be whole, plain and the engine's own is not passed on."""
    before = len(edge.engine.requests)
    edge.engine.then(raw(answer, close=True))
    found = await edge.chat()
    assert (found.status, found.code, found.complete) == (502, "upstream_error", True)
    assert len(edge.engine.requests) == before + 1
    assert (await edge.chat()).status == 200


@each("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(edge: Edge, status: int) -> None:
    """A redirect of an engine is its failure; where it points to hears nothing."""
    async with DemoHub.start() as sink:
        edge.engine.then(raw(head(status, [("Location", sink.endpoint + "/x"), ("Content-Length", "0")])))
        found = await edge.chat()
        assert (found.status, found.code) == (502, "upstream_error")
        assert len(sink.log) == 0


async def test_headers_of_the_engine_stay_there(edge: Edge) -> None:
    """Cookies, server names and ids of the engine's do not reach the caller."""
    theirs = [("Set-Cookie", "a=b"), ("Server", "uvicorn"), ("X-Request-Id", "theirs"), ("X-Secret", "1")]
    edge.engine.then(raw(head(200, [TYPE, LENGTH, *theirs]) + JSON))
    found = await edge.chat()
    assert found.body == JSON
    assert b"uvicorn" not in found.raw
    assert b"theirs" not in found.raw
    assert (found.header("Set-Cookie"), found.header("X-Secret")) == (None, None)


LEAKS = [
    ("Traceback: /root/store/x.py", "/root"),
    ("bad file:///data/store/y", "/data"),
    ('no "/srv/models/a b/c"', "/srv"),
    ("path=/mnt/x/y.bin:3", "/mnt"),
    ("(/var/lib/hubgate/adapters/org/name@sha)", "/var"),
    ("see ~/.cache/huggingface/hub", "/.cache"),
]


@each("status", [500, 501, 502, 503, 504, 401 + 2])
async def test_an_engines_faults_are_not_told(edge: Edge, status: int) -> None:
    """The text of an engine's own error never reaches the caller."""
    edge.engine.then(refusal(status, "Traceback: /root/store/x.py token"))
    found = await edge.chat()
    assert (found.status, found.code) == (502, "upstream_error")
    assert b"Traceback" not in found.raw


@each(("message", "path"), LEAKS)
async def test_local_paths_are_not_told(edge: Edge, message: str, path: str) -> None:
    """A refusal of the engine is passed on in its words, without the places of its files."""
    edge.engine.then(refusal(400, message))
    found = await edge.chat()
    assert (found.status, found.code) == (400, "invalid_request")
    assert path not in found.json()["error"]["message"]


@each("message", ["max_tokens must be 1/2 of it", "use a/b@c or https://hf.co/a/b", "x < 5"])
async def test_useful_words_are_passed_on(edge: Edge, message: str) -> None:
    """What helps the caller to mend a request is left as it is."""
    edge.engine.then(refusal(400, message))
    assert (await edge.chat()).json()["error"]["message"] == message


@each("status", [400, 404, 413, 422])
async def test_refusals_of_the_engine_are_bad_requests(edge: Edge, status: int) -> None:
    """The engine's own refusals keep their words and are one kind of error."""
    edge.engine.then(refusal(status, "too long"))
    found = await edge.chat()
    assert (found.status, found.code) == (400, "invalid_request")
    (record,) = await edge.records(1)
    assert (record["event"], record["decision"], record["reason"]) == (
        "request.done",
        "granted",
        "invalid_request",
    )


@each(
    "body",
    [
        b"",
        b"no",
        b'{"error":"Unauthorized"}',
        b'{"error":{"message":5}}',
        b'{"detail":"x"}',
        b"\xff",
        b"[" * 70_000,
    ],
)
async def test_refusals_that_cannot_be_read(edge: Edge, body: bytes) -> None:
    """A refusal in another shape is the engine's fault."""
    edge.engine.then(raw(whole(400, body)))
    assert (await edge.chat()).code == "upstream_error"


async def test_a_refusal_in_parts(edge: Edge) -> None:
    """A refusal that arrives piece by piece is read to its end."""
    whole_body = json.dumps({"error": {"message": "too long, by far"}}).encode()
    go = asyncio.Event()

    async def in_parts(_: Received, connection: Connection) -> None:
        connection.send(head(400, [TYPE, ("Content-Length", str(len(whole_body)))]) + whole_body[:10])
        await go.wait()
        connection.send(whole_body[10:])

    edge.engine.then(in_parts)
    asking = asyncio.create_task(edge.chat())
    await edge.engine.received(1)
    go.set()
    assert (await asking).json()["error"]["message"] == "too long, by far"


async def test_a_vast_refusal_is_cut(edge: Edge) -> None:
    """A caller does not get pages of the engine's words."""
    edge.engine.then(refusal(400, "x" * 50_000))
    assert len((await edge.chat()).json()["error"]["message"]) == 2000


@pytest.mark.parametrize(
    "answer", [raw(b"HTTP/1.1 100 Continue\r\n\r\n" + whole(200, JSON)), raw(whole(200, JSON))]
)
async def test_interim_answers_are_passed_over(edge: Edge, answer: Answer) -> None:
    """RFC 9110, section 15.2: what comes before the answer is not the answer."""
    edge.engine.then(answer)
    found = await edge.chat()
    assert (found.status, found.body) == (200, JSON)


async def test_a_length_that_is_too_short(edge: Edge) -> None:
    """What stands behind the announced end is thrown away (RFC 9112, section 6.3)."""
    edge.engine.then(raw(head(200, [TYPE, ("Content-Length", "5")]) + JSON))
    assert (await edge.chat()).body == JSON[:5]
    assert (await edge.chat()).status == 200


async def test_bytes_after_an_answer_belong_to_nobody(edge: Edge) -> None:
    """A second answer that nobody asked for does not reach the next caller."""
    edge.engine.then(raw(whole(200, JSON) + whole(200, b'{"stolen":1}')))
    assert (await edge.chat()).body == JSON
    assert b"stolen" not in (await edge.chat()).raw


def turned_away(code: str = SHARE_USED, **headers: str) -> Answer:
    """As an engine's gate says that a caller's share is used."""
    body = json.dumps(
        {"error": {"message": "others wait", "type": "x", "param": None, "code": code}}
    ).encode()
    given = [
        TYPE,
        ("Content-Length", str(len(body))),
        *((n.replace("_", "-"), v) for n, v in headers.items()),
    ]
    return raw(head(429, given) + body)


async def test_a_used_share_is_a_429_with_the_reason(edge: Edge) -> None:
    """In the caller's dialect, with the gate's `Retry-After`, counted and in the trail."""
    for path in ("/v1/chat/completions", "/v1/messages"):
        edge.engine.then(turned_away(retry_after="7", x_hubgate_waited="2.5"))
        found = await edge.post(path, {"model": BASE, "messages": MESSAGES, "max_tokens": 3})
        assert (found.status, found.code) == (429, "rate_limit_exceeded"), path
        assert found.header("Retry-After") == "7"
        assert found.json()["error"]["message"] == "Your share of this engine is used; others wait."
    line = (await edge.records(2, "request.done"))[-1]
    assert (line["status"], line["reason"], line["seconds"]["queue"]) == (429, "rate_limit_exceeded", 2.5)
    assert await edge.metric("hubgate_queue_seconds_count") == 2


async def test_another_429_of_an_engine_is_its_fault(edge: Edge) -> None:
    """Only the gate knows of shares."""
    edge.engine.then(turned_away(code="other"))
    assert (await edge.chat()).status == 502


async def test_a_wait_at_the_gate_is_told(edge: Edge) -> None:
    """In `Server-Timing`, in the trail, and not where there was none."""
    edge.engine.then(raw(head(200, [TYPE, LENGTH, ("X-Hubgate-Waited", "1.2500")]) + JSON))
    found, other = await edge.chat(), await edge.chat()
    assert "queue;dur=1250.0" in (found.header("Server-Timing") or "")
    assert found.header("X-Hubgate-Waited") is None
    assert "queue" not in (other.header("Server-Timing") or "")


@each("waited", ["-1", "1e9", "nan", "", "9" * 40, "1.5.5"])
async def test_a_wait_that_cannot_be_read_is_none(edge: Edge, waited: str) -> None:
    """Whoever has taken an engine over says what they like."""
    edge.engine.then(raw(head(200, [TYPE, LENGTH, ("X-Hubgate-Waited", waited)]) + JSON))
    assert "queue" not in ((await edge.chat()).header("Server-Timing") or "")
