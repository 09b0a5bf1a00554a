"""What a caller can be told: the table of errors, and how each dialect writes them.

A refusal is a value, `Denied`, that functions return. Nothing is raised to say no.
"""

from typing import Final, Literal

import msgspec

from hubgate.proxy.frozen_struct import FrozenStruct

Dialect = Literal["openai", "responses", "anthropic"]

Code = Literal[
    "invalid_request",
    "invalid_api_key",
    "token_expired",
    "caller_not_allowed",
    "insufficient_scope",
    "token_too_old",
    "model_gated",
    "access_pending",
    "access_denied",
    "model_not_allowed",
    "model_not_found",
    "unknown_endpoint",
    "method_not_allowed",
    "request_timeout",
    "request_too_large",
    "unsupported_media_type",
    "expectation_failed",
    "adapter_rejected",
    "rate_limit_exceeded",
    "headers_too_large",
    "http_version",
    "internal_error",
    "upstream_error",
    "upstream_timeout",
    "hub_unavailable",
    "model_loading",
    "store_full",
    "no_upstream",
    "audit_unavailable",
    "draining",
]

STATUS: Final[dict[Code, int]] = {
    "invalid_request": 400,
    "invalid_api_key": 401,
    "token_expired": 401,
    "caller_not_allowed": 403,
    "insufficient_scope": 403,
    "token_too_old": 403,
    "model_gated": 403,
    "access_pending": 403,
    "access_denied": 403,
    "model_not_allowed": 403,
    "model_not_found": 404,
    "unknown_endpoint": 404,
    "method_not_allowed": 405,
    "request_timeout": 408,
    "request_too_large": 413,
    "unsupported_media_type": 415,
    "expectation_failed": 417,
    "adapter_rejected": 422,
    "rate_limit_exceeded": 429,
    "headers_too_large": 431,
    "internal_error": 500,
    "upstream_error": 502,
    "hub_unavailable": 503,
    "model_loading": 503,
    "store_full": 503,
    "no_upstream": 503,
    "audit_unavailable": 503,
    "draining": 503,
    "upstream_timeout": 504,
    "http_version": 505,
}

# The vocabulary of OpenAI's and of Anthropic's API references; both have a catch-all.
_OPENAI_TYPE = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_ANTHROPIC_TYPE = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}

MAX_RETRY_AFTER: Final = 120  # seconds
# The number of an error event: events are not counted on their way through, and it must sort last.
LAST: Final = 2**31 - 1


class Denied(FrozenStruct):
    """A refusal, with a reason that a machine (`code`) and a person (`message`) can read."""

    code: Code
    message: str
    param: str | None = None
    retry_after: float | None = None  # seconds
    lines: str = ""  # more headers, each a line as it goes over the wire
    own: bool = False  # whether it comes of this caller's own account, so that it says nothing to others

    @property
    def status(self) -> int:
        return STATUS[self.code]


def body(denied: Denied, dialect: Dialect, request_id: str) -> bytes:
    """The JSON of an error, as the dialect's SDK reads it."""
    if dialect == "anthropic":
        kind = _ANTHROPIC_TYPE.get(denied.status, _fallback(denied.status, "api_error"))
        details = {"error_code": denied.code}  # where Anthropic's SDK looks for a code
        inner = {"type": kind, "message": denied.message, "code": denied.code, "details": details}
        return msgspec.json.encode({"type": "error", "error": inner, "request_id": request_id})
    return msgspec.json.encode({"error": _openai(denied)})


def event(denied: Denied, dialect: Dialect, request_id: str) -> bytes:
    """The server-sent event that tells of a failure after streaming began.

    OpenAI's SDK raises on any event with an `error` in it; on `/v1/responses` readers of typed events
    also expect the flat fields of `ResponseErrorEvent` (openai/types/responses/response_error_event.py).
    """
    match dialect:
        case "anthropic":
            return b"event: error\ndata: %s\n\n" % body(denied, dialect, request_id)
        case "responses":
            error = _openai(denied)
            flat = {"type": "error", "code": denied.code, "message": denied.message, "param": denied.param}
            data = {**flat, "sequence_number": LAST, "error": error}
            return b"event: error\ndata: %s\n\n" % msgspec.json.encode(data)
        case "openai":
            return b"data: %s\n\n" % body(denied, dialect, request_id)


def identified(request_id: str, dialect: Dialect) -> str:
    """The header in which each SDK finds the request's id, as lines; ours stands in every answer."""
    ours = f"X-Request-Id: {request_id}\r\n"
    return f"{ours}Request-Id: {request_id}\r\n" if dialect == "anthropic" else ours


def lines(denied: Denied) -> str:
    """The headers that belong to an error, as lines, beside its content type and request id."""
    found = denied.lines
    if denied.status == 401:
        found += "WWW-Authenticate: Bearer\r\n"  # RFC 9110, section 11.6.1
    if denied.retry_after is not None:
        seconds = max(1, min(MAX_RETRY_AFTER, round(denied.retry_after)))
        found += f"Retry-After: {seconds}\r\n"
    elif denied.status != 408:
        # The SDKs retry 408, 409, 429 and 5xx unless told that it cannot help.
        found += "x-should-retry: false\r\n"
    return found


def _openai(denied: Denied) -> dict[str, str | None]:
    kind = _OPENAI_TYPE.get(denied.status, _fallback(denied.status, "server_error"))
    return {"message": denied.message, "type": kind, "param": denied.param, "code": denied.code}


def _fallback(status: int, server: str) -> str:
    return "invalid_request_error" if status < 500 else server
