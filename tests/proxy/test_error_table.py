"""Every code of the table, produced through real sockets and read by the unmodified OpenAI SDK."""

import asyncio
import errno
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import openai
import pytest

from hubgate.proxy.body import json_request
from hubgate.proxy.errors import STATUS, Code
from hubgate.wire.control_api import FailureCode, LoadFailed
from tests.fakes.answers import Stream, dies, silent
from tests.fakes.backend import Held, says
from tests.fakes.engine import PATIENCE
from tests.fakes.meddling import Edit, meddling
from tests.fakes.running_proxy import ALICE, BASE, BOB, MISSING, PUBLIC, Edge, eventually
from tests.proxy.conftest import StartEdge

CLASSES: dict[int, type[openai.APIStatusError]] = {
    400: openai.BadRequestError,
    401: openai.AuthenticationError,
    403: openai.PermissionDeniedError,
    404: openai.NotFoundError,
    422: openai.UnprocessableEntityError,
    429: openai.RateLimitError,
}
TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


@dataclass(frozen=True, slots=True)
class Scene:
    """What a case may arrange."""

    edge: Edge
    sdk: openai.AsyncOpenAI
    stack: AsyncExitStack
    monkeypatch: pytest.MonkeyPatch


Send = Callable[[openai.AsyncOpenAI, str], Awaitable[object]]
Arrange = Callable[[Scene], Awaitable[None]]


async def chat(sdk: openai.AsyncOpenAI, model: str) -> object:
    return await sdk.chat.completions.create(model=model, messages=[{"role": "user", "content": "hello"}])


def with_header(name: str, value: str) -> Send:
    async def send(sdk: openai.AsyncOpenAI, model: str) -> object:
        return await sdk.completions.create(model=model, prompt="x", extra_headers={name: value})

    return send


async def elsewhere(sdk: openai.AsyncOpenAI, _: str) -> object:
    return await sdk.post("/nowhere", cast_to=object, body={})


async def get(sdk: openai.AsyncOpenAI, _: str) -> object:
    return await sdk.get("/chat/completions", cast_to=object)


async def listing(sdk: openai.AsyncOpenAI, _: str) -> object:
    return await sdk.models.list()


async def nothing(_: Scene) -> None:
    """Most refusals need no arrangement."""


async def spent(scene: Scene) -> None:
    await scene.edge.chat()


async def engine_dies(scene: Scene) -> None:
    scene.edge.engine.always(dies())


async def engine_is_silent(scene: Scene) -> None:
    scene.edge.engine.always(silent())


async def hub_is_down(scene: Scene) -> None:
    scene.edge.hub.state.set_down("503")


async def backend_is_down(scene: Scene) -> None:
    await scene.edge.backend.down()
    await scene.edge.until_down()


async def load_goes_on(scene: Scene) -> None:
    scene.edge.backend.always(Held(scene.edge.backend.make_warm))


def load_fails(code: FailureCode, retry_after: int | None = None) -> Arrange:
    async def arrange(scene: Scene) -> None:
        scene.edge.backend.always(says(LoadFailed(code=code, message="why", retry_after=retry_after)))

    return arrange


async def a_fault_of_our_own(scene: Scene) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("planted")

    scene.monkeypatch.setattr(json_request, "parse", broken)


async def disk_is_full(scene: Scene) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def refused() -> bool:
        return (await scene.edge.ask("GET", "/v1/models")).status == 503

    scene.monkeypatch.setattr("hubgate.proxy.audit.chain.write", full)
    await eventually(refused)


async def going_down(scene: Scene) -> None:
    """One stream is under way, and the SDK keeps a connection from before."""
    edge, stream = scene.edge, Stream()
    await scene.sdk.models.list()
    edge.engine.always(stream)
    streaming = asyncio.create_task(edge.chat(stream=True))
    await edge.engine.received(1)
    stopping = asyncio.create_task(edge.stop())

    async def finish() -> None:
        stream.finish()
        assert (await streaming).complete
        await stopping

    scene.stack.push_async_callback(finish)

    async def draining() -> bool:
        return (await edge.admin("/readyz"))[0] == 503

    await eventually(draining)


def old_version(data: bytes) -> bytes:
    return data.replace(b" HTTP/1.1\r\n", b" HTTP/2.0\r\n", 1)


def without_body(data: bytes) -> bytes:
    return data if data.startswith(b"POST ") else b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """How a code comes about, and whether the SDK is told when to come back."""

    token: str = ALICE
    model: str = BASE
    settings: Mapping[str, Any] = field(default_factory=dict)
    arrange: Arrange = nothing
    send: Send = chat
    edit: Edit | None = None
    again: bool = False


CASES: dict[Code, Case] = {
    "invalid_request": Case(model="org//llama"),
    "invalid_api_key": Case(token="hf_demo_unknown"),
    "token_expired": Case(token="hf_demo_expired"),
    "caller_not_allowed": Case(token=BOB, settings={"callers": {"users": ["alice"]}}),
    "insufficient_scope": Case(token="hf_demo_writer"),
    "token_too_old": Case(token="hf_demo_old"),
    "model_gated": Case(token="hf_demo_eve"),
    "access_pending": Case(token="hf_demo_pending"),
    "access_denied": Case(token="hf_demo_rejected"),
    "model_not_allowed": Case(model="other/model"),
    "model_not_found": Case(model=MISSING),
    "unknown_endpoint": Case(send=elsewhere),
    "method_not_allowed": Case(send=get),
    "request_timeout": Case(settings={"timeouts": {"body_idle": 0.05}}, edit=without_body),
    "request_too_large": Case(settings={"request": {"max_body_bytes": 40}}),
    "unsupported_media_type": Case(send=with_header("Content-Encoding", "gzip")),
    "expectation_failed": Case(send=with_header("Expect", "x")),
    "adapter_rejected": Case(model=PUBLIC, arrange=load_fails("rejected")),
    "rate_limit_exceeded": Case(settings={"limits": {"requests_per_minute": 1}}, arrange=spent, again=True),
    "headers_too_large": Case(send=with_header("X-Long", "a" * 9_000)),
    "http_version": Case(edit=old_version),
    "internal_error": Case(arrange=a_fault_of_our_own),
    "upstream_error": Case(arrange=engine_dies, again=True),
    "upstream_timeout": Case(settings={"timeouts": {"first_byte": 0.05}}, arrange=engine_is_silent),
    "hub_unavailable": Case(arrange=hub_is_down, again=True),
    "model_loading": Case(
        model=PUBLIC, settings={"cold_start": {"plain_wait": 0.05}}, arrange=load_goes_on, again=True
    ),
    "store_full": Case(model=PUBLIC, arrange=load_fails("store_full", 7), again=True),
    "no_upstream": Case(arrange=backend_is_down, again=True),
    "audit_unavailable": Case(arrange=disk_is_full, again=True),
    "draining": Case(
        settings={"timeouts": {"drain": PATIENCE}}, arrange=going_down, send=listing, again=True
    ),
}


def test_the_cases_are_the_table() -> None:
    """A code without a case here is a code that no SDK was ever seen to read."""
    assert CASES.keys() == STATUS.keys()


PATCHED = ("internal_error", "audit_unavailable")  # faults that nothing outside can bring about


@pytest.mark.parametrize(
    "code", [pytest.param(code, marks=[pytest.mark.inside] if code in PATCHED else []) for code in STATUS]
)
async def test_what_the_sdk_reads(
    start_edge: StartEdge,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    code: Code,
) -> None:
    """Status, class, code, type, request id, and whether and when to try again, are what the table says."""
    case = CASES[code]
    edge: Edge = await start_edge(case.settings)
    options = {"http_client": meddling(case.edit)} if case.edit else {}
    sdk = edge.sdk(case.token, **options)
    async with AsyncExitStack() as stack:
        await case.arrange(Scene(edge, sdk, stack, monkeypatch))
        with pytest.raises(openai.APIStatusError) as caught:
            await case.send(sdk, case.model)
    error, headers = caught.value, caught.value.response.headers
    assert (error.status_code, error.code) == (STATUS[code], code)
    fallback = openai.APIStatusError if error.status_code < 500 else openai.InternalServerError
    assert type(error) is CLASSES.get(error.status_code, fallback)
    assert error.type == TYPES.get(
        error.status_code, "server_error" if error.status_code >= 500 else "invalid_request_error"
    )
    assert isinstance(error.body, dict)
    assert error.body.keys() == {"message", "type", "param", "code"}
    assert error.body["message"]
    assert str(error.request_id).startswith("req-")
    assert headers.get("WWW-Authenticate") == ("Bearer" if error.status_code == 401 else None)
    assert headers.get("x-should-retry") == (None if case.again or code == "request_timeout" else "false")
    assert (1 <= int(headers["Retry-After"]) <= 120) if case.again else "Retry-After" not in headers
    assert "planted" not in error.response.text
    told = f"{error}{error.body}{headers}{caplog.text}{''.join(capfd.readouterr())}"
    assert case.token not in told
