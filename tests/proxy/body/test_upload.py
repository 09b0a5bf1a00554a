"""Recordings: forms whose fields are checked before anything of them goes on."""

from typing import Any

import openai
import pytest

from hubgate.proxy.endpoints import ENDPOINTS
from tests.cases import each
from tests.fakes.answers import chunk, event, head, raw, refusal
from tests.fakes.forms import (
    FORM,
    GOOD,
    MARK,
    MODEL,
    SOUND,
    SPEECH,
    TRANSLATION,
    begun,
    fields,
    form,
    part,
    read,
    recording,
    send,
    transcribed,
)
from tests.fakes.raw import RawClient, request
from tests.fakes.running_proxy import ALICE, BASE, BOB, MISSING, PRIVATE, Edge


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


@each(
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
    assert edge.engine.requests == []
    assert PRIVATE.encode() not in edge.engine.wire


@each(
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


@each("told", ["", "; boundary=", "; boundary=" + "x" * 71, '; boundary="a\tb"', "; boundary=é"])
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
