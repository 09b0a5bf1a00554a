"""Every refusal that can be met from outside, as the unmodified OpenAI SDK reads it."""

from typing import Any

import openai
import pytest

from tests.cases import each
from tests.fakes.running_proxy import ALICE, BASE, BOB, CHAT, MESSAGES, MISSING, PRIVATE, PUBLIC, Edge
from tests.proxy.conftest import StartEdge

CLASSES: dict[int, type[openai.APIStatusError]] = {
    400: openai.BadRequestError,
    401: openai.AuthenticationError,
    403: openai.PermissionDeniedError,
    404: openai.NotFoundError,
    422: openai.UnprocessableEntityError,
    429: openai.RateLimitError,
    503: openai.InternalServerError,
}


async def refusal(edge: Edge, token: str, model: str = BASE, **fields: Any) -> openai.APIStatusError:
    """The SDK's exception; it is of the class that its status belongs to."""
    fields = {"messages": MESSAGES, **fields}
    with pytest.raises(openai.APIStatusError) as caught:
        await edge.sdk(token).chat.completions.create(model=model, **fields)
    error = caught.value
    assert type(error) is CLASSES[error.status_code]
    assert error.request_id is not None
    assert isinstance(error.body, dict)
    assert error.body.keys() == {"message", "type", "param", "code"}
    assert token not in str(error)
    return error


@each(
    ("token", "model", "status", "code"),
    [
        ("hf_demo_unknown", BASE, 401, "invalid_api_key"),
        ("hf_demo_expired", BASE, 401, "token_expired"),
        ("hf_demo_writer", BASE, 403, "insufficient_scope"),
        ("hf_oauth_demo_bob", BASE, 403, "insufficient_scope"),
        ("hf_demo_narrow", BASE, 403, "insufficient_scope"),
        ("hf_demo_old", BASE, 403, "token_too_old"),
        ("hf_demo_eve", BASE, 403, "model_gated"),
        ("hf_demo_pending", BASE, 403, "access_pending"),
        ("hf_demo_rejected", BASE, 403, "access_denied"),
        ("hf_demo_unapproved", BASE, 403, "access_denied"),
        (BOB, "demo/disabled-lora", 403, "access_denied"),
        (BOB, "other/model", 403, "model_not_allowed"),
        (BOB, f"{PUBLIC}@refs/pr/1", 403, "model_not_allowed"),
        (BOB, f"{PUBLIC}@v1", 403, "model_not_allowed"),
        (BOB, MISSING, 404, "model_not_found"),
        (BOB, PRIVATE, 404, "model_not_found"),
        (BOB, "llama", 404, "model_not_found"),
        (BOB, "gpt-4o", 404, "model_not_found"),
        (BOB, "llama3:8b", 404, "model_not_found"),
        (BOB, "dummy", 404, "model_not_found"),
        (BOB, "~root", 400, "invalid_request"),
        (BOB, "..", 400, "invalid_request"),
        (BOB, "gpt 4o", 400, "invalid_request"),
    ],
)
async def test_callers_and_models(edge: Edge, token: str, model: str, status: int, code: str) -> None:
    """Who may not call, and what may not be used, is refused with its own code; the engine hears nothing."""
    edge.proxy.reloader.forget()  # else some were known by an earlier case
    error = await refusal(edge, token, model)
    assert (error.status_code, error.code) == (status, code)
    assert error.response.headers["x-should-retry"] == "false"
    assert edge.engine.requests == []
    assert edge.backend.asked == []


async def test_callers_that_are_not_listed(start_edge: StartEdge) -> None:
    """Any Hub account calls: only those in `callers:` are let in, and the model is not asked about."""
    edge = await start_edge({"callers": {"users": ["alice"]}})
    error = await refusal(edge, BOB)
    assert (error.status_code, error.code) == (403, "caller_not_allowed")
    assert edge.hub_calls() == ["GET /api/whoami-v2"]
    assert (await edge.chat(token=ALICE)).status == 200


async def test_gates_name_the_page(edge: Edge) -> None:
    """The message of a gate says where access is asked for."""
    assert f"{edge.hub.endpoint}/{BASE}" in (await refusal(edge, "hf_demo_eve")).message


@each(
    "model",
    [
        "../x",
        "a/b\n",
        "http://169.254.169.254",
        "http://evil/x",
        "a/b?x",
        "a%2fb",
        "~root",
        "/etc/passwd",
        "a/b@../x",
        "a/b@",
        "",
        "ä/b",
        "a/b/c",
        "x" * 5000,
    ],
)
async def test_names_that_are_none(edge: Edge, model: str) -> None:
    """A name outside the grammar is a bad request: of the Hub only who calls is asked."""
    edge.proxy.reloader.forget()  # else alice was known by an earlier case
    edge.hub.log.clear()
    error = await refusal(edge, ALICE, model)
    assert (error.status_code, error.code, error.param) == (400, "invalid_request", "model")
    assert edge.hub_calls() == ["GET /api/whoami-v2"]
    assert edge.engine.requests == []


@each(
    "field",
    [
        "prompt_embeds",
        "chat_template",
        "lora_request",
        "kv_transfer_params",
        "ec_transfer_params",
        "vllm_xargs",
        "mm_processor_kwargs",
        "media_io_kwargs",
        "use_beam_search",
        "request_id",
        "background",
        "cache_salt",
        "priority",
        "anything_else",
    ],
)
async def test_forbidden_fields(edge: Edge, field: str) -> None:
    """A field that is not on the list is refused by name, and nothing is asked about the model."""
    error = await refusal(edge, ALICE, extra_body={field: 1})
    assert (error.status_code, error.code, error.param) == (400, "invalid_request", field)
    assert edge.hub_calls() == ["GET /api/whoami-v2"]
    assert edge.engine.requests == []


@each("fields", [{"n": 9}, {"top_logprobs": 21}, {"logprobs": True, "top_logprobs": -1}])
async def test_costly_numbers(edge: Edge, fields: dict[str, Any]) -> None:
    """What would cost without bound is capped."""
    assert (await refusal(edge, ALICE, **fields)).code == "invalid_request"
    assert edge.engine.requests == []


async def test_media_from_elsewhere(edge: Edge) -> None:
    """The engine is not told to fetch an image."""
    part = {"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}
    error = await refusal(edge, ALICE, messages=[{"role": "user", "content": [part]}])
    assert (error.code, error.param) == ("invalid_request", "messages")


async def test_too_many_requests(start_edge: StartEdge) -> None:
    """Beyond the rate a caller is told when to come back; the next caller is not hurt."""
    edge = await start_edge({"limits": {"requests_per_minute": 2}})
    for _ in range(2):
        await edge.chat()
    error = await refusal(edge, ALICE)
    assert (error.status_code, error.code) == (429, "rate_limit_exceeded")
    assert 1 <= int(error.response.headers["Retry-After"]) <= 60
    assert error.response.headers["x-ratelimit-remaining-requests"] == "0"
    assert (await edge.chat(token=BOB)).status == 200
    assert len(edge.engine.requests) == 3


async def test_refused_requests_count_against_the_rate(start_edge: StartEdge) -> None:
    """Trying names is limited like using them."""
    edge = await start_edge({"limits": {"requests_per_minute": 3}})
    codes = [(await edge.chat(MISSING)).code for _ in range(5)]
    assert codes == ["model_not_found"] * 3 + ["rate_limit_exceeded"] * 2


@each(
    ("method", "target", "status", "code"),
    [
        ("POST", "/v1/../pause", 404, "unknown_endpoint"),
        ("POST", "/%2e%2e/pause", 404, "unknown_endpoint"),
        ("POST", "//pause", 404, "unknown_endpoint"),
        ("GET", "/v1%2fmodels", 404, "unknown_endpoint"),
        ("POST", f"{CHAT};x", 404, "unknown_endpoint"),
        ("POST", f"{CHAT}#", 404, "unknown_endpoint"),
        ("POST", "/invocations", 404, "unknown_endpoint"),
        ("POST", "/v1/load_lora_adapter", 404, "unknown_endpoint"),
        ("GET", "/metrics", 404, "unknown_endpoint"),
        ("GET", "/", 404, "unknown_endpoint"),
        ("OPTIONS", "*", 400, "invalid_request"),
        ("CONNECT", "evil:443", 400, "invalid_request"),
        ("GET", "http://evil/health", 400, "invalid_request"),
        ("GET", CHAT, 405, "method_not_allowed"),
        ("PUT", CHAT, 405, "method_not_allowed"),
        ("POST", "/v1/models", 405, "method_not_allowed"),
        ("TRACE", "/health", 405, "method_not_allowed"),
    ],
)
async def test_paths_outside_the_table(edge: Edge, method: str, target: str, status: int, code: str) -> None:
    """An unknown path asks nobody, whether the credential is good or missing: both read the same."""
    answers = [await edge.ask(method, target, token) for token in (ALICE, None)]
    for answer in answers:
        assert (answer.status, answer.code) == (status, code)
    assert answers[0].body == answers[1].body
    assert edge.hub_calls() == []
    assert edge.engine.requests == []


@each(
    ("headers", "status"),
    [
        ([], 401),
        ([("Authorization", "")], 401),
        ([("Authorization", "Basic YTpi")], 401),
        ([("Authorization", f"{ALICE}")], 401),
        ([("Authorization", "Bearer sk-123")], 401),
        ([("Authorization", "Bearer " + "a" * 600)], 401),
        ([("Authorization", "Bearer hf_\xff\xff\xff")], 401),
        ([("x-api-key", "")], 401),
        ([("api-key", "sk-123")], 401),
        ([("Cookie", f"token={ALICE}")], 401),
        ([("Authorization", f"Bearer {ALICE}"), ("authorization", f"Bearer {BOB}")], 400),
    ],
)
async def test_credentials_that_are_none(edge: Edge, headers: list[tuple[str, str]], status: int) -> None:
    """No, malformed and doubled credentials ask nothing of the Hub, and no query carries one."""
    answer = await edge.ask("GET", f"/v1/models?token={ALICE}", None, headers)
    assert answer.status == status
    assert answer.code == ("invalid_api_key" if status == 401 else "invalid_request")
    assert edge.hub_calls() == []
