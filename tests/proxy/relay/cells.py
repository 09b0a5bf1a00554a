"""What is expected of every endpoint and mode, whoever fails and whenever: as data."""

from dataclasses import dataclass
from typing import Any, Final, Literal

from hubgate.proxy.errors import Code, Dialect
from tests.fakes.answers import event
from tests.fakes.running_proxy import BASE, MESSAGES

Mode = Literal["plain", "stream"]
Fault = Literal[
    "caller leaves before",
    "caller leaves after",
    "engine dies before",
    "engine dies after",
    "engine silent before",
    "engine silent after",
    "caller slow",
]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint: what is asked, and the first piece of what its engine says to it."""

    path: str
    dialect: Dialect
    asked: dict[str, Any]
    plain: bytes
    event: bytes = b""  # empty: does not stream


def named(data: dict[str, Any]) -> bytes:
    """An event with a name, as Anthropic's and the Responses API have it."""
    return b"event: %s\n" % data["type"].encode() + event(data)


ENDPOINTS: Final = {
    "chat": Endpoint(
        "/v1/chat/completions",
        "openai",
        {"messages": MESSAGES},
        b'{"object":"chat.completion","choices":[',
        event({"choices": [{"index": 0, "delta": {"content": "hi"}}]}),
    ),
    "completions": Endpoint(
        "/v1/completions",
        "openai",
        {"prompt": "hi"},
        b'{"object":"text_completion","choices":[',
        event({"choices": [{"index": 0, "text": "hi"}]}),
    ),
    "responses": Endpoint(
        "/v1/responses",
        "responses",
        {"input": "hi"},
        b'{"object":"response","output":[',
        named({"type": "response.output_text.delta", "delta": "hi", "sequence_number": 4}),
    ),
    "messages": Endpoint(
        "/v1/messages",
        "anthropic",
        {"messages": MESSAGES, "max_tokens": 8},
        b'{"type":"message","content":[',
        named({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hi"}}),
    ),
    "embeddings": Endpoint("/v1/embeddings", "openai", {"input": "hi"}, b'{"object":"list","data":['),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the caller sees, the audit tells, and becomes of the two connections."""

    status: int | None  # `None`: the caller is gone
    told: Code | None  # as a body before anything of the engine's, as an event after it
    whole: bool  # the answer is complete, and the caller's connection goes on
    audit: tuple[int, str]
    reused: bool = False  # the engine's connection carries the next request


LEFT: Final = Outcome(None, None, whole=False, audit=(499, "client_left"))
OUTCOMES: Final[dict[tuple[Fault, Mode], Outcome]] = {
    ("caller leaves before", "plain"): LEFT,
    ("caller leaves before", "stream"): LEFT,
    ("caller leaves after", "plain"): LEFT,
    ("caller leaves after", "stream"): LEFT,
    ("engine dies before", "plain"): Outcome(
        502, "upstream_error", whole=True, audit=(502, "upstream_error")
    ),
    ("engine dies before", "stream"): Outcome(
        502, "upstream_error", whole=True, audit=(502, "upstream_error")
    ),
    ("engine dies after", "plain"): Outcome(200, None, whole=False, audit=(200, "upstream_error")),
    ("engine dies after", "stream"): Outcome(
        200, "upstream_error", whole=False, audit=(200, "upstream_error")
    ),
    ("engine silent before", "plain"): Outcome(
        504, "upstream_timeout", whole=True, audit=(504, "upstream_timeout")
    ),
    ("engine silent before", "stream"): Outcome(
        504, "upstream_timeout", whole=True, audit=(504, "upstream_timeout")
    ),
    ("engine silent after", "plain"): Outcome(200, None, whole=False, audit=(200, "upstream_timeout")),
    ("engine silent after", "stream"): Outcome(
        200, "upstream_timeout", whole=False, audit=(200, "upstream_timeout")
    ),
    ("caller slow", "plain"): Outcome(200, None, whole=True, audit=(200, "ok"), reused=True),
    ("caller slow", "stream"): Outcome(200, None, whole=True, audit=(200, "ok"), reused=True),
}
CELLS: Final = [
    (name, mode, fault)
    for name, endpoint in ENDPOINTS.items()
    for fault, mode in OUTCOMES
    if mode == "plain" or endpoint.event
]

_ANTHROPIC_TYPE: Final = {"upstream_error": "api_error", "upstream_timeout": "timeout_error"}


def error(dialect: Dialect, code: Code, said: dict[str, Any]) -> dict[str, Any]:
    """The error that is due, with the words and the id that `said` has."""
    inner = said["error"]
    if dialect == "anthropic":
        kind = _ANTHROPIC_TYPE[code]
        told = {"type": kind, "message": inner["message"], "code": code, "details": {"error_code": code}}
        return {"type": "error", "error": told, "request_id": said["request_id"]}
    return {"error": {"message": inner["message"], "type": "server_error", "param": None, "code": code}}


def error_event(dialect: Dialect, code: Code, said: dict[str, Any]) -> dict[str, Any]:
    """The same as an event's data."""
    told = error(dialect, code, said)
    if dialect != "responses":
        return told
    message = told["error"]["message"]
    flat = {"type": "error", "code": code, "message": message, "param": None, "sequence_number": 2**31 - 1}
    return {**flat, **told}


def request_body(endpoint: Endpoint, mode: Mode) -> dict[str, Any]:
    """What a caller sends."""
    streaming = {"stream": True} if mode == "stream" else {}
    return {"model": BASE, **endpoint.asked, **streaming}
