"""Recordings: a form whose fields are checked, and whose file is passed on while it comes."""

import asyncio
from collections.abc import Sequence
from email import message_from_bytes
from email.message import Message
from typing import Any

import msgspec
import openai
import pytest

from proxy.endpoints import ENDPOINTS
from proxy.http.inbound import WINDOW, Inbound
from proxy.upstream import connections
from tests.fakes.answers import chunk, event, head, misdirected, raw, refusal, silent, whole
from tests.fakes.edge import ALICE, BASE, BOB, MISSING, PRIVATE, Edge, eventually
from tests.fakes.engine import CONTINUE, Answer, Connection, Received
from tests.fakes.raw import RawAnswer, RawClient, request
from tests.proxy.conftest import StartEdge

SPEECH, TRANSLATION = "/v1/audio/transcriptions", "/v1/audio/translations"
MARK = "x-mark"
FORM = ("Content-Type", f"multipart/form-data; boundary={MARK}")
AUTH = ("Authorization", f"Bearer {ALICE}")
SOUND = b"RIFF\r\n--x-mar\r\n\x00\xff" * 9

Part = tuple[str, bytes]


def part(name: str, value: str) -> Part:
    """A field."""
    return (f'form-data; name="{name}"', value.encode())


def recording(content: bytes = SOUND, filename: str = "a.wav", more: str = "") -> Part:
    """The file; `more` stands in its headers."""
    return (f'form-data; name="file"; filename="{filename}"{more}', content)


def form(*parts: Part, end: bytes = b"--\r\n") -> bytes:
    """These parts, and the closing boundary."""
    opened = b"".join(
        b"--%b\r\nContent-Disposition: %b\r\n\r\n%b\r\n" % (MARK.encode(), told.encode(), content)
        for told, content in parts
    )
    return opened + f"--{MARK}".encode() + end


def begun(content: bytes = SOUND, model: str = BASE) -> bytes:
    """A form in the middle of its file."""
    return form(part("model", model), recording(content), end=b"").removesuffix(f"\r\n--{MARK}".encode())


MODEL = part("model", BASE)
GOOD = form(MODEL, recording())


def transcribed(text: str = "hello") -> Answer:
    """What vLLM says of a recording."""
    return raw(whole(200, msgspec.json.encode({"text": text, "usage": {"type": "duration", "seconds": 1}})))


def read(received: Received) -> "list[Message[str, str]]":
    """The parts that the engine got, by a reader that is not ours."""
    kind = f"Content-Type: {received.header('content-type')}\r\n\r\n".encode()
    found = message_from_bytes(kind + received.body)
    assert found.is_multipart()
    return [one for one in found.get_payload() if isinstance(one, Message)]


def fields(received: Received) -> list[tuple[str, bytes]]:
    """Names and contents of those parts, in order."""
    found = []
    for one in read(received):
        content = one.get_payload(decode=True)
        assert isinstance(content, bytes)
        found.append((str(one.get_param("name", header="content-disposition")), content))
    return found


async def send(edge: Edge, body: bytes, path: str = SPEECH, headers: Sequence[Any] = (FORM,)) -> RawAnswer:
    """One form of alice's."""
    return await edge.ask("POST", path, headers=headers, body=body)


def head_of(*headers: tuple[str, str]) -> bytes:
    """The head of a form whose body is still to come."""
    return request("POST", SPEECH, [AUTH, FORM, *headers])


async def in_flight(edge: Edge, count: int) -> None:
    async def reached() -> bool:
        return await edge.metric("hubgate_in_flight_requests") == count

    await eventually(reached)


async def test_the_sdk_transcribes(edge: Edge) -> None:
    """The unmodified OpenAI SDK; the engine gets its fields under the pinned name, and the file's bytes."""
    edge.engine.always(transcribed())
    answer = await edge.sdk().audio.transcriptions.create(
        model=BASE,
        file=('../../naïve\r\n"x.mp3', SOUND),
        prompt="naïve\r\n--x",
        temperature=0.5,
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
        extra_body={"seed": 7},
    )
    assert answer.text == "hello"
    received = edge.engine.requests[0]
    sent = fields(received)
    assert sorted(sent) == sorted(
        [
            ("model", edge.at(BASE).encode()),
            ("prompt", "naïve\r\n--x".encode()),
            ("temperature", b"0.5"),
            ("response_format", b"verbose_json"),
            ("timestamp_granularities[]", b"word"),
            ("timestamp_granularities[]", b"segment"),
            ("seed", b"7"),
            ("file", SOUND),
        ]
    )
    assert sent[-1][0] == "file"
    assert read(received)[-1].get_filename() == "recording.mp3"
    assert read(received)[-1].get_content_type() == "audio/mpeg"
    (record,) = await edge.records(1)
    assert (record["reason"], record["endpoint"]) == ("ok", SPEECH)
    assert record["bytes_in"] > len(SOUND)


async def test_the_sdk_translates(edge: Edge) -> None:
    """The other endpoint, with a file that has no name."""
    edge.engine.always(transcribed("hi"))
    with pytest.warns(DeprecationWarning, match="deprecated"):  # the SDK's own
        answer = await edge.sdk().audio.translations.create(model=BASE, file=SOUND, response_format="json")
    assert answer.text == "hi"
    assert edge.engine.requests[0].target == TRANSLATION
    assert read(edge.engine.requests[0])[-1].get_filename() == "recording"


@pytest.mark.parametrize("asked", [False, True])
async def test_the_sdk_streams(edge: Edge, *, asked: bool) -> None:
    """The engine is always asked for the usage of a stream; a caller who did not ask does not see it."""
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    pieces = event({"choices": [{"delta": {"content": "a"}}]}) + event({"choices": [], "usage": usage})
    opened = head(200, [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")])
    edge.engine.always(raw(opened, chunk(pieces), chunk(b"data: [DONE]\n\n"), chunk(b"")))
    more: dict[str, Any] = {"stream_include_usage": True} if asked else {}
    client = edge.sdk()
    async with client.audio.transcriptions.with_streaming_response.create(
        model=BASE, file=SOUND, stream=True, extra_body=more
    ) as answer:
        seen = await answer.read()
    assert (b'"usage"' in seen) == asked
    assert b'"content":"a"' in seen
    assert ("stream_include_usage", b"true") in fields(edge.engine.requests[0])
    (record,) = await edge.records(1)
    assert (record["prompt_tokens"], record["completion_tokens"], record["stream"]) == (3, 2, True)


async def test_an_engine_without_the_route(edge: Edge) -> None:
    """A text model refuses recordings: a bad request to the SDK."""
    edge.engine.always(refusal(404, "The model does not support Transcriptions API"))
    with pytest.raises(openai.BadRequestError, match="Transcriptions"):
        await edge.sdk().audio.transcriptions.create(model=BASE, file=SOUND)


@pytest.mark.parametrize(("model", "token"), [(PRIVATE, BOB), (MISSING, ALICE)])
async def test_authorization_comes_before_the_file(edge: Edge, model: str, token: str) -> None:
    """Who may not use the model is told so while the file is still to come; the engine hears nothing."""
    async with RawClient.connect(edge.port) as client:
        auth = ("Authorization", f"Bearer {token}")
        await client.send(
            request("POST", SPEECH, [auth, FORM, ("Content-Length", "9999999")]) + begun(model=model)
        )
        answer = await client.answer()
    assert (answer.status, answer.code) == (404, "model_not_found")
    assert edge.engine.wire == b""


TYPE = "\r\nContent-Type: "
REFUSED = {
    "two models": form(MODEL, MODEL, recording()),
    "two models, one in brackets": form(MODEL, part("model[]", PRIVATE), recording()),
    "a list of models": form(part("model[]", BASE), recording()),
    "model after file": form(recording(), MODEL),
    "no model": form(recording()),
    "no file": form(MODEL),
    "nothing": b"",
    "an empty form": form(),
    "an unknown field": form(MODEL, part("anything", "1"), recording()),
    "a refused field": form(MODEL, part("vllm_xargs", "{}"), recording()),
    "beam search": form(MODEL, part("use_beam_search", "true"), recording()),
    "a nested field": form(MODEL, part("chunking_strategy[type]", "server_vad"), recording()),
    "a charset for all": form(part("_charset_", "utf-7"), MODEL, recording()),
    "too many answers": form(MODEL, part("n", "99"), recording()),
    "no number": form(MODEL, part("temperature", "nan"), recording()),
    "a vast number": form(MODEL, part("seed", "9" * 30), recording()),
    "a number in another spelling": form(MODEL, part("seed", "1_0"), recording()),
    "another list": form(MODEL, part("timestamp_granularities[]", "x"), recording()),
    "a huge field": form(MODEL, part("prompt", "x" * 70_000), recording()),
    "many fields": form(MODEL, *[part("x[]", "1")] * 100, recording()),
    "another file": form(MODEL, ('form-data; name="prompt"; filename="x"', b"x"), recording()),
    "a list of files": form(MODEL, ('form-data; name="file[]"; filename="x"', b"x"), recording()),
    "no name": form(MODEL, ("form-data", b"x"), recording()),
    "an odd name": form(MODEL, ('form-data; name="a\\"b"', b"x"), recording()),
    "an extended name": form(("form-data; name*=UTF-8''model", BASE.encode()), recording()),
    "a header twice": form(MODEL, recording(more='\r\nContent-Disposition: form-data; name="model"')),
    "a bare line feed": form(MODEL, recording(more="\nX: y")),
    "nested forms": form(MODEL, recording(more=f"{TYPE}multipart/mixed; boundary=y")),
    "a nested form for a field": form(
        ('form-data; name="model"' + TYPE + "multipart/mixed", b""), recording()
    ),
    "a page": form(MODEL, recording(more=f"{TYPE}text/html")),
    "another charset": form((f'form-data; name="model"{TYPE}text/plain; charset=utf-7', b"a/b"), recording()),
    "not UTF-8": form(MODEL, ('form-data; name="prompt"', b"\xff"), recording()),
    "base64": form(MODEL, recording(more="\r\nContent-Transfer-Encoding: base64")),
    "another boundary": GOOD.replace(MARK.encode(), b"y-mark"),
    "a preamble": b"model=x\r\n" + GOOD,
    "a huge header": form(MODEL, recording(filename="x" * 5000)),
    "many headers": form(MODEL, recording(more="".join(f"\r\nX-{i}: y" for i in range(20)))),
}


async def test_forms_that_go_nowhere(edge: Edge, caplog: pytest.LogCaptureFixture) -> None:
    """Each of these is 400, the engine receives no byte, and the log no line."""
    for what, body in REFUSED.items():
        answer = await send(edge, body)
        assert (answer.status, answer.code) == (400, "invalid_request"), what
    assert edge.engine.wire == b""
    assert [one for one in caplog.records if one.name.startswith("python_multipart")] == []


@pytest.mark.parametrize("path", [SPEECH, TRANSLATION])
async def test_every_refused_row(edge: Edge, path: str) -> None:
    """Each field that is left out on purpose is refused by name, plain and in brackets."""
    table = ENDPOINTS[path].fields
    assert table is not None
    assert len(table.refused) > 10
    for name in table.refused:
        for written in (name, f"{name}[]"):
            answer = await send(edge, form(MODEL, part(written, "1"), recording()), path)
            assert (answer.status, answer.json()["error"]["param"]) == (400, name)
    assert edge.engine.wire == b""


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (form(recording(), MODEL), "before `file`"),
        (form(MODEL, MODEL, recording()), "twice"),
        (form(MODEL, part("vllm_xargs", "{}"), recording()), "engine internals"),
        (form(MODEL, part("temperature", "warm"), recording()), "temperature"),
    ],
)
async def test_refusals_say_what_to_do(edge: Edge, body: bytes, told: str) -> None:
    """The message names the field and the remedy."""
    assert told in (await send(edge, body)).json()["error"]["message"]


BROKEN = {
    "a field after the file": form(MODEL, recording(), part("prompt", "x")),
    "a model after the file": form(MODEL, recording(), part("model", PRIVATE)),
    "two files": form(MODEL, recording(), recording()),
    "no closing boundary": GOOD[: -len(f"--{MARK}--\r\n")],
    "half a closing boundary": GOOD[:-4],
}


@pytest.mark.parametrize("what", BROKEN)
async def test_forms_that_break_in_the_file(edge: Edge, what: str) -> None:
    """The caller is told 400; the engine, which may have begun to read, never sees the form's end."""
    edge.engine.always(transcribed())
    answer = await send(edge, BROKEN[what])
    assert (answer.status, answer.code) == (400, "invalid_request")
    assert edge.engine.requests == []
    await edge.engine.until(lambda: not edge.engine.connections)
    assert b"0\r\n\r\n" not in edge.engine.wire
    assert PRIVATE.encode() not in edge.engine.wire


@pytest.mark.parametrize(
    "kind",
    [
        "application/json",
        "multipart/mixed; boundary=x-mark",
        "application/x-www-form-urlencoded",
        "multipart/form-data-x; boundary=x-mark",
    ],
)
async def test_other_bodies(edge: Edge, kind: str) -> None:
    """A body of another media type is 415."""
    answer = await send(edge, GOOD, headers=[("Content-Type", kind)])
    assert (answer.status, answer.code) == (415, "unsupported_media_type")
    assert edge.engine.wire == b""


@pytest.mark.parametrize(
    "told", ["", "; boundary=", "; boundary=" + "x" * 71, '; boundary="a\tb"', "; boundary=é"]
)
async def test_boundaries_that_are_none(edge: Edge, told: str) -> None:
    """A form without a boundary as RFC 2046 has it is a bad request."""
    answer = await send(edge, GOOD, headers=[("Content-Type", f"multipart/form-data{told}")])
    assert (answer.status, answer.code) == (400, "invalid_request")


async def test_what_follows_the_form_goes_nowhere(edge: Edge) -> None:
    """An epilogue is no part of the form (RFC 2046, section 5.1.1): the engine gets one form without it."""
    edge.engine.always(transcribed())
    answer = await send(edge, GOOD + b"--" + MARK.encode() + GOOD)
    assert answer.status == 200
    assert [name for name, _ in fields(edge.engine.requests[0])] == ["model", "file"]


async def test_the_limit_by_length(start_edge: StartEdge) -> None:
    """A form whose length is over the limit is not read at all."""
    edge = await start_edge({"request": {"max_body_bytes": 1000}})
    async with RawClient.connect(edge.port) as client:
        await client.send(head_of(("Content-Length", "1001")))
        answer = await client.answer()
    assert (answer.status, answer.code) == (413, "request_too_large")
    assert edge.engine.wire == b""


async def test_the_limit_on_the_way(start_edge: StartEdge) -> None:
    """A form that turns out too long is cut: 413 to the caller, and no end of it to the engine."""
    edge = await start_edge({"request": {"max_body_bytes": 200_000}})
    async with RawClient.connect(edge.port) as client:
        await client.send(head_of(("Transfer-Encoding", "chunked")))
        for piece in [begun(b""), *[b"x" * 50_000] * 4]:
            await client.send(chunk(piece))
        answer = await client.answer()
    assert (answer.status, answer.code) == (413, "request_too_large")
    await edge.engine.until(lambda: not edge.engine.connections)
    assert edge.engine.requests == []


@pytest.mark.parametrize("cut", [30, 400])
async def test_a_stalled_form(start_edge: StartEdge, cut: int) -> None:
    """A form that stalls, in its fields or in its file, is given up."""
    edge = await start_edge({"timeouts": {"body_idle": 0.05}})
    body = form(MODEL, recording(b"x" * 1000))
    async with RawClient.connect(edge.port) as client:
        await client.send(head_of(("Content-Length", str(len(body)))) + body[:cut])
        answer = await client.answer()
    assert (answer.status, answer.code) == (408, "request_timeout")
    await edge.engine.until(lambda: not edge.engine.connections)
    assert edge.engine.requests == []


async def test_a_caller_who_leaves_in_the_file(edge: Edge) -> None:
    """The engine's connection is closed, and the audit tells who left."""
    async with RawClient.connect(edge.port) as client:
        await client.send(head_of(("Content-Length", "9999")) + begun())
        await edge.engine.until(lambda: len(edge.engine.connections) == 1)
        client.leave()
        await edge.engine.until(lambda: not edge.engine.connections)
    assert edge.engine.requests == []
    (record,) = await edge.records(1)
    assert (record["status"], record["reason"]) == (499, "client_left")


async def test_a_caller_who_waits_for_leave(edge: Edge) -> None:
    """`Expect: 100-continue` is met."""
    edge.engine.always(transcribed())
    async with RawClient.connect(edge.port) as client:
        await client.send(head_of(("Content-Length", str(len(GOOD))), ("Expect", "100-continue")))
        assert await client.until(b"\r\n\r\n") == CONTINUE
        await client.send(GOOD)
        assert (await client.answer()).status == 200


async def test_a_connection_serves_many_forms(edge: Edge) -> None:
    """A form that was read to its end leaves both connections in use."""
    edge.engine.always(transcribed())
    async with RawClient.connect(edge.port) as client:
        for _ in range(3):
            await client.send(request("POST", SPEECH, [AUTH, FORM], GOOD))
            assert (await client.answer()).status == 200
    assert len(edge.engine.requests) == 3
    assert len(edge.engine.connections) == 1


class Held:
    """Watches what the proxy holds of a body: unread by it, and not yet taken by the engine."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.unread = self.unsent = 0
        self.stuck = asyncio.Event()  # the engine takes nothing, and nothing more is read
        choked = set[connections.Connection]()
        feed, pause = Inbound.feed, connections.Connection.pause_writing

        def fed(inbound: Inbound, data: bytes) -> None:
            feed(inbound, data)
            self.unread = max(self.unread, inbound._held)
            for engine in choked:
                self.unsent = max(self.unsent, engine._transport.get_write_buffer_size())
            if choked and inbound._held > WINDOW:
                self.stuck.set()

        def paused(connection: connections.Connection) -> None:
            pause(connection)
            choked.add(connection)

        patch.setattr(Inbound, "feed", fed)
        patch.setattr(connections.Connection, "pause_writing", paused)


async def test_a_large_file_is_held_by_nobody(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that does not read stops the caller; when it reads, all 30 MB arrive, a window at a time."""
    size, piece = 30_000_000, b"x" * 50_000
    held = Held(monkeypatch)
    reading: asyncio.Queue[Connection] = asyncio.Queue()
    edge.engine.eager = True

    async def slow(_: Received, connection: Connection) -> None:
        connection.send(CONTINUE)
        connection.hold()
        reading.put_nowait(connection)

    edge.engine.then(slow)
    before, after = begun(b""), b"\r\n" + form()
    length = ("Content-Length", str(len(before) + size + len(after)))
    sent = 0
    async with RawClient.connect(edge.port) as client, asyncio.TaskGroup() as group:
        await client.send(head_of(length) + before)

        async def upload() -> None:
            nonlocal sent
            for _ in range(size // len(piece)):
                await client.send(piece)
                sent += len(piece)
            await client.send(after)

        group.create_task(upload())
        connection = await reading.get()
        await held.stuck.wait()
        assert sent < size
        connection.go_on()
        await edge.engine.until(lambda: edge.engine.wire.endswith(b"\r\n0\r\n\r\n"))
        connection.send(whole(200, b'{"text":"x"}'))
        assert (await client.answer()).status == 200
    assert edge.engine.wire.count(b"x" * 1000) > size // 1200
    assert WINDOW < held.unread <= 2 * WINDOW
    assert 0 < held.unsent <= 4 * WINDOW


async def test_a_refusal_of_the_gate_costs_nothing(edge: Edge) -> None:
    """The engine's 421 comes before any of the body was sent: it goes to the engine that is loaded next."""
    edge.engine.eager = True

    async def refuses(received: Received, connection: Connection) -> None:
        edge.engine.eager = False
        await misdirected()(received, connection)

    edge.engine.then(refuses)
    edge.engine.always(transcribed())
    answer = await send(edge, GOOD)
    assert answer.status == 200
    first, second = edge.engine.requests
    assert first.body == b""
    assert fields(second) == [("model", edge.at(BASE).encode()), ("file", SOUND)]


async def test_a_refusal_after_the_body_began(edge: Edge) -> None:
    """What was sent is gone and may have run: no other engine gets it, and the caller is to send it again."""
    edge.engine.always(misdirected())
    answer = await send(edge, GOOD)
    assert (answer.status, answer.code, answer.header("Retry-After")) == (503, "model_loading", "1")
    assert len(edge.engine.requests) == 1


async def test_an_answer_before_the_end_of_the_file(edge: Edge) -> None:
    """An engine that refuses in the middle is relayed at once; the rest is not sent on."""
    edge.engine.eager = True

    async def refuses(received: Received, connection: Connection) -> None:
        connection.send(CONTINUE)
        await refusal(400, "no sound in it")(received, connection)

    edge.engine.then(refuses)
    async with RawClient.connect(edge.port) as client:
        await client.send(head_of(("Content-Length", "99999")) + begun())
        answer = await client.answer()
        assert (answer.status, answer.json()["error"]["message"]) == (400, "no sound in it")
        assert answer.header("Connection") == "close"
    await edge.engine.until(lambda: not edge.engine.connections)


async def test_an_engine_that_dies_in_the_file(edge: Edge) -> None:
    """502, and no second try."""
    edge.engine.eager = True
    edge.engine.always(raw(CONTINUE, close=True))
    async with RawClient.connect(edge.port) as client:
        await client.send(head_of(("Content-Length", "99999")) + begun())
        answer = await client.answer()
    assert (answer.status, answer.code) == (502, "upstream_error")
    assert len(edge.engine.requests) == 1


async def test_an_engine_that_takes_nothing(start_edge: StartEdge) -> None:
    """An engine that neither reads nor answers is given up after `first_byte`."""
    edge = await start_edge({"timeouts": {"first_byte": 0.2}})
    edge.engine.always(silent())
    answer = await send(edge, GOOD)
    assert (answer.status, answer.code) == (504, "upstream_timeout")


async def test_an_engine_that_streams_early(edge: Edge) -> None:
    """An answer may begin before the file ends; the rest of the file still arrives."""
    edge.engine.eager = True
    started = asyncio.Event()

    async def early(_: Received, connection: Connection) -> None:
        connection.send(
            CONTINUE + head(200, [("Content-Type", "text/event-stream"), ("Content-Length", "16")])
        )
        connection.send(b"data: 1\n")
        started.set()
        await edge.engine.until(lambda: edge.engine.wire.endswith(b"0\r\n\r\n"))
        connection.send(b"data: 2\n")

    edge.engine.then(early)
    async with RawClient.connect(edge.port) as client:
        await client.send(head_of(("Content-Length", str(len(GOOD)))) + GOOD[:-30])
        await started.wait()
        seen = await client.until(b"data: 1\n")
        await client.send(GOOD[-30:])
        assert await client.until(b"data: 2\n") == b"data: 2\n"
    assert seen.startswith(b"HTTP/1.1 200")
