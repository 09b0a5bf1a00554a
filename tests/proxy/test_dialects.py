"""Every JSON endpoint through the SDK that it is made for: good answers, refusals, broken streams."""

import asyncio
import hashlib
from typing import Any, get_args

import anthropic
import openai
import pytest
from anthropic import AsyncAnthropic
from huggingface_hub import AsyncInferenceClient, InferenceClient

from hubgate.proxy import errors
from hubgate.proxy.errors import STATUS, Code, Denied
from hubgate.proxy.fields.table import Table
from tests.cases import each
from tests.fakes.answers import Stream, raw, refusal, whole
from tests.fakes.dialects import BODIES, events, every_route
from tests.fakes.engine import PATIENCE
from tests.fakes.raw import RawAnswer
from tests.fakes.running_proxy import ALICE, BASE, BOB, PRIVATE, Edge
from tests.proxy.conftest import StartEdge
from tests.proxy.fields.test_tables import LEAST

KEY = "sk-local-1234567890"
SAID: Any = [{"role": "user", "content": "hello"}]


@pytest.fixture(name="edge")
async def _edge(edge: Edge) -> Edge:
    """An engine that answers on every route."""
    edge.engine.always(every_route())
    return edge


def claude(edge: Edge, token: str = ALICE, **options: Any) -> AsyncAnthropic:
    """The unmodified Anthropic SDK, which sends its key as `x-api-key`."""
    return AsyncAnthropic(base_url=edge.url, api_key=token, max_retries=0, timeout=PATIENCE, **options)


@each("path", sorted(LEAST))
async def test_every_endpoint_reaches_its_own_route(edge: Edge, path: str) -> None:
    """Each JSON endpoint is forwarded under its own path and answered with the engine's bytes."""
    answer = await edge.post(path, {"model": BASE, **LEAST[path]})
    assert (answer.status, answer.complete) == (200, True)
    assert answer.json() == BODIES[path](edge.at(BASE))
    assert edge.engine.requests[-1].target == path
    assert edge.engine.requests[-1].json()["model"] == edge.at(BASE)


@each("path", sorted(LEAST))
async def test_every_endpoint_is_authorized(edge: Edge, path: str) -> None:
    """An adapter of another's is missing on every route, whatever its dialect; the engine hears nothing."""
    edge.proxy.reloader.forget()  # else the Hub's no was known from an earlier route
    missing = await edge.post(path, {"model": "alice/nobody-lora", **LEAST[path]}, BOB)
    private = await edge.post(path, {"model": PRIVATE, **LEAST[path]}, BOB)
    assert (private.status, private.code) == (404, "model_not_found")
    ids = [answer.header("X-Request-Id") or "" for answer in (private, missing)]
    told = [
        answer.body.replace(id_.encode(), b"") for answer, id_ in zip((private, missing), ids, strict=True)
    ]
    assert told[0].replace(PRIVATE.encode(), b"") == told[1].replace(b"alice/nobody-lora", b"")
    assert edge.engine.requests == []


async def test_openai_on_every_route_of_its_own(edge: Edge) -> None:
    """The OpenAI SDK embeds and responds, plain and streamed; nothing is stored whatever it leaves out."""
    sdk = edge.sdk()
    embedded = await sdk.embeddings.create(model=BASE, input=["x"], encoding_format="float")
    assert embedded.data[0].embedding == [0.5, -0.5]
    response = await sdk.responses.create(model=BASE, input="hello")
    assert (response.output_text, response.model) == ("hi", edge.at(BASE))
    assert edge.engine.requests[-1].json()["store"] is False
    stream = await sdk.responses.create(model=BASE, input=SAID, stream=True, store=False)
    kinds = [event.type async for event in stream]
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    async with sdk.responses.stream(model=BASE, input="hello") as managed:
        final = await managed.get_final_response()
    assert final.output_text == "hi"


async def test_anthropic_on_every_route_of_its_own(edge: Edge) -> None:
    """The Anthropic SDK gets messages, plain and streamed, and counts; it finds the request's id."""
    async with claude(edge) as sdk:
        message = await sdk.messages.create(model=BASE, messages=SAID, max_tokens=9)
        assert (message.content[0].type, message.model) == ("text", edge.at(BASE))
        last = edge.engine.requests[-1]
        assert message._request_id == last.header("x-request-id")
        assert len(last.json()["cache_salt"]) == 32
        counted = await sdk.messages.count_tokens(model=BASE, messages=SAID)
        assert counted.input_tokens == 3
        assert "cache_salt" not in edge.engine.requests[-1].json()
        async with sdk.messages.stream(model=BASE, messages=SAID, max_tokens=9) as stream:
            assert [text async for text in stream.text_stream] == ["hi"]


async def test_the_hubs_own_clients(edge: Edge) -> None:
    """`InferenceClient` and its asynchronous twin chat, plain and streamed, with the Hub token as key."""
    client: Any = AsyncInferenceClient(base_url=f"{edge.url}/v1", api_key=ALICE)
    answer = await client.chat.completions.create(model=BASE, messages=SAID, max_tokens=9, temperature=0.5)
    assert answer.choices[0].message.content == "hi"
    edge.engine.then(Stream(count=2).finish())
    stream = await client.chat_completion(SAID, model=BASE, stream=True)
    assert [chunk.choices[0].delta.content async for chunk in stream] == ["t0", "t1"]
    await client.close()
    asked = edge.engine.requests[-1]
    assert ALICE.encode() not in asked.raw
    twin = InferenceClient(base_url=f"{edge.url}/v1", api_key=ALICE)
    told = await asyncio.to_thread(twin.chat_completion, SAID, model=BASE, max_tokens=9)
    assert told.choices[0].message.content == "hi"
    await asyncio.to_thread(twin.close)


async def test_a_local_key_through_x_api_key(start_edge: StartEdge, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator's own keys work on Anthropic's route as Hub tokens do."""
    monkeypatch.setenv("HF_TOKEN", ALICE)
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    edge = await start_edge(
        {"keys": [{"name": "job", "sha256": digest, "token": "service", "models": [BASE]}]}
    )
    edge.engine.always(every_route())
    async with claude(edge, KEY) as sdk:
        message = await sdk.messages.create(model=BASE, messages=SAID, max_tokens=9)
    assert message.model == edge.at(BASE)
    (record,) = await edge.records(1)
    assert (record["user"], record["endpoint"]) == ("key:job", "/v1/messages")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([("x-api-key", ALICE)], 200),
        ([("Authorization", f"Bearer {ALICE}")], 200),
        ([("x-api-key", ALICE), ("anthropic-version", "2023-06-01"), ("anthropic-beta", "a,b")], 200),
        ([("x-api-key", ALICE), ("Authorization", f"Bearer {ALICE}")], 200),
        ([("api-key", ALICE)], 200),
        ([("x-api-key", ALICE), ("Authorization", f"Bearer {BOB}")], 400),
        ([("x-api-key", ALICE), ("api-key", BOB)], 400),
        ([("x-api-key", ALICE), ("X-API-Key", ALICE)], 400),
        ([("x-api-key", "sk-ant-123")], 401),
        ([("x-api-key", "")], 401),
        ([], 401),
    ],
)
async def test_exactly_one_credential(edge: Edge, headers: list[tuple[str, str]], status: int) -> None:
    """Either header, but one; what Anthropic's own service would read besides goes no further."""
    body = b'{"model": "demo/tiny-llama", "messages": [], "max_tokens": 1}'
    answer = await edge.ask("POST", "/v1/messages", None, headers, body)
    assert answer.status == status
    assert answer.header("Request-Id") == answer.header("X-Request-Id")
    if status == 200:
        names = {name for name, _ in edge.engine.requests[-1].headers}
        assert not {name for name in names if name.startswith("anthropic") or "api-key" in name}
    else:
        assert edge.engine.requests == []
        assert edge.hub_calls() == []


CLASSES: dict[int, type[anthropic.APIStatusError]] = {
    400: anthropic.BadRequestError,
    401: anthropic.AuthenticationError,
    403: anthropic.PermissionDeniedError,
    404: anthropic.NotFoundError,
    408: anthropic.RequestTimeoutError,
    413: anthropic.ContentTooLargeError,
    422: anthropic.UnprocessableEntityError,
    429: anthropic.RateLimitError,
    431: anthropic.RequestHeaderFieldsTooLargeError,
}


@pytest.mark.inside
@pytest.mark.parametrize("code", get_args(Code))
async def test_every_code_as_anthropics_sdk_reads_it(
    edge: Edge, monkeypatch: pytest.MonkeyPatch, code: Code
) -> None:
    """Each code of the table is the SDK's exception for its status, with code, type, message and id."""
    # One refusal in the place of all: what matters here is how it is told.
    monkeypatch.setattr(Table, "check", lambda *_, **__: Denied(code, f"why {code}", "model"))
    async with claude(edge) as sdk:
        with pytest.raises(anthropic.APIStatusError) as caught:
            await sdk.messages.create(model=BASE, messages=SAID, max_tokens=9)
    error = caught.value
    assert error.status_code == STATUS[code]
    if STATUS[code] < 500:
        assert isinstance(error, CLASSES.get(STATUS[code], anthropic.APIStatusError))
    else:
        assert isinstance(error, anthropic.InternalServerError)
    assert (error.error_code, error.api_message) == (code, f"why {code}")
    assert error.type in {*errors._ANTHROPIC_TYPE.values(), "invalid_request_error", "api_error"}
    assert str(error.request_id).startswith("req-")
    assert ALICE not in str(error)


@each(
    ("token", "model", "kind", "code"),
    [
        ("hf_demo_unknown", BASE, anthropic.AuthenticationError, "invalid_api_key"),
        ("hf_demo_expired", BASE, anthropic.AuthenticationError, "token_expired"),
        ("hf_demo_writer", BASE, anthropic.PermissionDeniedError, "insufficient_scope"),
        ("hf_demo_old", BASE, anthropic.PermissionDeniedError, "token_too_old"),
        ("hf_demo_eve", BASE, anthropic.PermissionDeniedError, "model_gated"),
        ("hf_demo_pending", BASE, anthropic.PermissionDeniedError, "access_pending"),
        (BOB, "other/model", anthropic.PermissionDeniedError, "model_not_allowed"),
        (BOB, PRIVATE, anthropic.NotFoundError, "model_not_found"),
        (BOB, "llama", anthropic.NotFoundError, "model_not_found"),
        (BOB, "org//llama", anthropic.BadRequestError, "invalid_request"),
    ],
)
async def test_refusals_on_anthropics_route(edge: Edge, token: str, model: str, kind: Any, code: str) -> None:
    """The same path of a request decides here: who may not call or use is told in Anthropic's words."""
    async with claude(edge, token) as sdk:
        with pytest.raises(kind) as caught:
            await sdk.messages.create(model=model, messages=SAID, max_tokens=9)
    assert caught.value.error_code == code
    assert edge.engine.requests == []


async def test_what_is_not_served_of_anthropics_api(edge: Edge) -> None:
    """Batches and other paths under `/v1/messages` are missing, in words that the SDK reads."""
    async with claude(edge) as sdk:
        with pytest.raises(anthropic.NotFoundError) as caught:
            await sdk.messages.batches.retrieve("b-1")
    assert (caught.value.error_code, caught.value.type) == ("unknown_endpoint", "not_found_error")
    wrong = await edge.ask("GET", "/v1/messages")
    assert (wrong.status, wrong.json()["type"]) == (405, "error")


async def test_a_broken_message_stream(edge: Edge) -> None:
    """When the engine dies within a message the SDK raises, and the final chunk never comes."""
    edge.engine.always(events(3, dies=True))
    async with claude(edge) as sdk:
        with pytest.raises(anthropic.APIStatusError) as caught:
            async for _ in await sdk.messages.create(model=BASE, messages=SAID, max_tokens=9, stream=True):
                pass
    assert caught.value.error_code == "upstream_error"
    answer = await edge.post(
        "/v1/messages", {"model": BASE, "messages": SAID, "max_tokens": 9, "stream": True}
    )
    assert_cut(answer, "message_stop")


async def test_a_broken_response_stream(edge: Edge) -> None:
    """When the engine dies within a response the SDK raises, and the final chunk never comes."""
    edge.engine.always(events(4, dies=True))
    with pytest.raises(openai.APIError, match="failed to answer") as caught:
        async for _ in await edge.sdk().responses.create(model=BASE, input="x", stream=True):
            pass
    assert caught.value.code == "upstream_error"
    with pytest.raises(openai.APIError, match="failed to answer"):
        async with edge.sdk().responses.stream(model=BASE, input="x") as stream:
            await stream.get_final_response()
    assert_cut(await edge.post("/v1/responses", {"model": BASE, "input": "x", "stream": True}), "completed")


def assert_cut(answer: RawAnswer, last: str) -> None:
    """The stream ends with one whole error event that has a name, and without what ends a good one."""
    assert (answer.status, answer.complete) == (200, False)
    assert not answer.raw.endswith(b"0\r\n\r\n")
    event = answer.body.strip().split(b"\n\n")[-1]
    assert event.startswith(b"event: error\ndata: {")
    assert last.encode() not in event


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses", "/v1/embeddings"])
async def test_what_the_engine_refuses(edge: Edge, path: str) -> None:
    """The engine's own 4xx is a 400 in the route's dialect, without the paths in its words."""
    for answer in (
        refusal(400, "too long, says /opt/vllm/engine.py"),
        raw(whole(400, b'{"type":"error","error":{"type":"x","message":"too long, says /opt/x/y.py"}}')),
    ):
        edge.engine.then(answer)
        told = await edge.post(path, {"model": BASE, **LEAST[path]})
        assert (told.status, told.code) == (400, "invalid_request")
        assert b"too long" in told.body
        assert b"/opt" not in told.body


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses", "/v1/embeddings"])
async def test_what_a_model_cannot_do(edge: Edge, path: str) -> None:
    """A route that the engine does not have for this model is a 400 that says so."""
    edge.engine.then(raw(whole(404, b'{"detail":"Not Found"}')))
    told = await edge.post(path, {"model": BASE, **LEAST[path]})
    assert (told.status, told.code) == (400, "invalid_request")
    assert path in told.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/responses/resp_1", "/v1/responses/resp_1/cancel", "/v1/responses"])
async def test_row_35_a_stored_response_is_nobodys(edge: Edge, path: str) -> None:
    """threats.md, row 35: an id opens nothing, for its owner as for others: 404, 0 requests upstream."""
    if path != "/v1/responses":
        answers = [await edge.ask("GET", path, token) for token in (ALICE, BOB, None)]
        answers += [await edge.ask("POST", path, token, body=b"{}") for token in (ALICE, BOB)]
    else:
        used = {"model": BASE, "input": "x"}
        answers = [
            await edge.post(path, {**used, "previous_response_id": id_}, token)
            for token in (ALICE, BOB)
            for id_ in ("resp_1", "resp_of_nobody", "../x")
        ]
    assert {(answer.status, answer.code) for answer in answers} == {(404, "unknown_endpoint")}
    assert len({answer.body for answer in answers}) == 1
    assert edge.engine.requests == []
