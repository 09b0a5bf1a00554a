"""Large requests are prepared in turn, and what cannot fit the model is refused before it is parsed."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from hubgate.backend.plugin.preparation import (
    AT_ONCE,
    LARGE,
    LEAST,
    MAX_VALUES,
    Message,
    Prepared,
    current,
    longest,
    preparing,
    text_bytes,
    values,
)
from hubgate.wire import endpoints
from tests.cases import each

CONTEXT = 8192
MOST = longest(CONTEXT)


class Vllm:
    """An application that takes a request's body and answers once it is let."""

    def __init__(self) -> None:
        self.state = SimpleNamespace(
            vllm_config=SimpleNamespace(model_config=SimpleNamespace(max_model_len=CONTEXT))
        )
        self.bodies: list[bytes] = []
        self.submit = True  # hand prompts to the engine core at once
        self.answer = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        del scope
        parts = [await receive()]
        while parts[-1].get("more_body"):
            parts.append(await receive())
        self.bodies.append(b"".join(part["body"] for part in parts))
        if self.submit and (preparation := current()) is not None:
            preparation.submitted()
        await self.answer.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})


class Caller:
    """One request to the application that prepares."""

    def __init__(self, app: Prepared, vllm: Vllm, body: bytes, path: str, name: str = "a") -> None:
        self.sent: list[Message] = []
        self.left = asyncio.Event()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        scope = {"type": "http", "path": path, "headers": headers, "app": vllm}
        half = len(body) // 2
        parts = [
            {"type": "http.request", "body": body[:half], "more_body": True},
            {"type": "http.request", "body": body[half:], "more_body": False},
        ]

        async def receive() -> Message:
            if parts:
                return parts.pop(0)
            await self.left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            self.sent.append(message)

        async def run() -> None:
            with preparing(name):
                await app(scope, receive, send)

        self.task = asyncio.create_task(run())


@pytest.fixture
def vllm() -> Vllm:
    return Vllm()


@pytest.fixture
def app(vllm: Vllm, monkeypatch: pytest.MonkeyPatch) -> Prepared:
    monkeypatch.setattr("hubgate.backend.plugin.preparation.PAUSE", 0.0)
    return Prepared(vllm)


async def _settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def _body(size: int) -> bytes:
    return b'{"prompt":"' + b"x" * (size - 13) + b'"}'


async def test_only_a_few_large_ones_are_parsed_at_a_time(app: Prepared, vllm: Vllm) -> None:
    """The others wait until vLLM has handed a prompt on; small ones wait for none of them."""
    vllm.submit = False
    large = [Caller(app, vllm, _body(LARGE + 1), endpoints.COMPLETIONS) for _ in range(5)]
    await _settle()
    assert len(vllm.bodies) == AT_ONCE
    Caller(app, vllm, _body(100), endpoints.COMPLETIONS)
    await _settle()
    assert vllm.bodies[-1] == _body(100)
    vllm.submit = True
    vllm.answer.set()
    await asyncio.gather(*(one.task for one in large))
    assert vllm.bodies.count(_body(LARGE + 1)) == 5


async def test_a_prompt_in_the_engine_core_holds_up_nobody(app: Prepared, vllm: Vllm) -> None:
    """However long its answer takes."""
    for _ in range(5):
        Caller(app, vllm, _body(LARGE + 1), endpoints.COMPLETIONS)
    await _settle()
    assert len(vllm.bodies) == 5


async def test_who_leaves_while_waiting_is_not_parsed(app: Prepared, vllm: Vllm) -> None:
    """And takes nobody's turn."""
    vllm.submit = False
    first = [Caller(app, vllm, _body(LARGE + 1), endpoints.COMPLETIONS) for _ in range(AT_ONCE)]
    gone = Caller(app, vllm, _body(LARGE + 2), endpoints.COMPLETIONS)
    last = Caller(app, vllm, _body(LARGE + 3), endpoints.COMPLETIONS, "b")
    await _settle()
    gone.left.set()
    await asyncio.wait_for(gone.task, 5)
    vllm.answer.set()
    await asyncio.gather(*(one.task for one in (*first, last)))
    assert _body(LARGE + 2) not in vllm.bodies
    assert vllm.bodies[-1] == _body(LARGE + 3)


@each(
    "path",
    [
        endpoints.CHAT_COMPLETIONS,
        endpoints.RESPONSES,
        endpoints.MESSAGES,
        endpoints.COUNT_TOKENS,
        endpoints.TOKENIZE,
    ],
)
async def test_a_conversation_that_cannot_fit_is_refused_unread(path: str) -> None:
    """With the number, and in the words of the endpoint."""
    vllm = Vllm()
    caller = Caller(Prepared(vllm), vllm, _body(MOST * 4 + 20), path)
    await asyncio.wait_for(caller.task, 5)
    assert caller.sent[0]["status"] == 400
    told = json.loads(caller.sent[1]["body"])
    assert str(MOST) in told["error"]["message"]
    assert (told.get("type") == "error") is path.startswith("/v1/messages")
    assert vllm.bodies == []


async def test_texts_that_are_many_are_not_one_conversation(app: Prepared, vllm: Vllm) -> None:
    """Each of a batch must fit by itself, which the renderer sees to."""
    Caller(app, vllm, _body(MOST * 4 + 20), endpoints.EMBEDDINGS)
    await _settle()
    assert len(vllm.bodies) == 1


def test_media_are_no_text() -> None:
    """As chat's and Anthropic's bodies carry them."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 5000}}
    sound = {"type": "input_audio", "input_audio": {"data": "B" * 5000, "format": "wav"}}
    for spaces in (None, (",", ":")):
        body = json.dumps({"messages": [{"content": [image, sound, image]}]}, separators=spaces).encode()
        assert text_bytes(body) < (6000 if spaces is None else 600)
    assert text_bytes(b'{"a":"data:') == 11


@each(
    "message",
    [
        {"content": "data:" + "x" * 5000},
        {"content": [{"text": "data:" + "x" * 5000}]},
        {"content": [{"image_url": {"url": "x" * 5000}}]},
        {"content": [{"image_url": "x" * 5000}]},
        {"content": '"url":"data:' + "x" * 5000},
        {"content": '{"data": "' + "x" * 5000},
    ],
)
def test_what_looks_like_media_is_text(message: Any) -> None:
    """Only what stands behind a key of theirs is none."""
    body = json.dumps({"messages": [message]}).encode()
    assert text_bytes(body) == len(body)


def test_media_are_left_out_once() -> None:
    """Also those that are a URL where a recording is due, and those of `/v1/responses`."""
    for key in ("data", "image_url", "url"):
        body = json.dumps({key: "data:" + "A" * 5000}).encode()
        assert text_bytes(body + b"x" * 5000) == len(body) - 5005 + 5000


@each("path", [endpoints.COMPLETIONS, endpoints.EMBEDDINGS, endpoints.RERANK])
async def test_more_token_ids_than_take_a_moment_are_refused_unread(
    app: Prepared, vllm: Vllm, path: str
) -> None:
    """With the number; what comes next has its turn, and commas in a text are no ids."""
    ids = b'{"input":[[' + b"1," * MAX_VALUES + b"1]]}"
    refused = [Caller(app, vllm, ids, path) for _ in range(AT_ONCE + 1)]
    await asyncio.wait_for(asyncio.gather(*(one.task for one in refused)), 20)
    assert {one.sent[0]["status"] for one in refused} == {400}
    assert str(MAX_VALUES) in json.loads(refused[0].sent[1]["body"])["error"]["message"]
    assert vllm.bodies == []
    texts = json.dumps({"input": ['\\",' * MAX_VALUES]}).encode()
    most = b'{"input":[' + b"1," * (MAX_VALUES - 1) + b"1]}"
    for body in (texts, most):
        Caller(app, vllm, body, path)
    await _settle()
    assert vllm.bodies == [texts, most]
    vllm.bodies.clear()


@each(
    ("body", "held"),
    [
        (b"[1,2,3]", 3),
        (b'["a,b","c"]', 2),
        (rb'["\",\\",1,"\\\",",2]', 4),
        (rb'["\\","\\\\",",\u005c",1]', 4),
    ],
)
def test_values_are_counted_outside_of_strings(body: bytes, held: int) -> None:
    """Whatever is escaped in those."""
    assert len(json.loads(body)) == values(body) == held


def test_small_models_are_sent_something_too() -> None:
    """And large ones in proportion."""
    assert longest(512) == LEAST
    assert longest(131072) == 131072 * 16
