"""What callers are told: DESIGN's table of errors, in the words that each SDK reads."""

import re
from pathlib import Path
from typing import get_args

import msgspec
from openai.types.responses import ResponseErrorEvent

from hubgate.proxy import errors
from hubgate.proxy.errors import STATUS, Code, Denied, Dialect
from tests.cases import each
from tests.fakes.lines import by_name

# docs/design.md, section 5, and `internal_error` for what nobody foresaw.
TABLE = {
    400: {"invalid_request"},
    401: {"invalid_api_key", "token_expired"},
    403: {
        "caller_not_allowed",
        "insufficient_scope",
        "token_too_old",
        "model_gated",
        "access_pending",
        "access_denied",
        "model_not_allowed",
    },
    404: {"model_not_found", "unknown_endpoint"},
    405: {"method_not_allowed"},
    408: {"request_timeout"},
    413: {"request_too_large"},
    415: {"unsupported_media_type"},
    417: {"expectation_failed"},
    422: {"adapter_rejected"},
    429: {"rate_limit_exceeded"},
    431: {"headers_too_large"},
    500: {"internal_error"},
    502: {"upstream_error"},
    503: {"hub_unavailable", "model_loading", "store_full", "no_upstream", "audit_unavailable", "draining"},
    504: {"upstream_timeout"},
    505: {"http_version"},
}
README = Path(__file__).parents[2] / "README.md"
CODES: tuple[Code, ...] = get_args(Code)
DIALECTS: tuple[Dialect, ...] = get_args(Dialect)


def test_every_code_has_the_status_of_the_table() -> None:
    """The codes and statuses are exactly those that users were promised."""
    assert {code: status for status, codes in TABLE.items() for code in codes} == STATUS
    assert set(CODES) == set(STATUS)


def test_the_readme_has_the_table() -> None:
    """What the README promises to program against is the table: every code once, beside its status."""
    rows = re.findall(r"^\| (\d{3}) \| (`[a-z_`, ]+`) \|", README.read_text(), re.MULTILINE)
    told = [(code, int(status)) for status, codes in rows for code in re.findall(r"`([a-z_]+)`", codes)]
    assert sorted(told) == sorted(STATUS.items())


@each("code", CODES)
def test_openai_shape(code: Code) -> None:
    """An error is an object of exactly message, type, param and code."""
    body = msgspec.json.decode(errors.body(Denied(code, "why", "model"), "openai", "req-1"))
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert body["error"] | {"type": ""} == {"message": "why", "type": "", "param": "model", "code": code}
    assert body["error"]["type"].endswith("_error")


@each("code", CODES)
def test_anthropic_shape(code: Code) -> None:
    """In Anthropic's dialect the object says `error` twice and carries the request id."""
    body = msgspec.json.decode(errors.body(Denied(code, "why"), "anthropic", "req-1"))
    assert (body["type"], body["request_id"]) == ("error", "req-1")
    assert (body["error"]["message"], body["error"]["code"]) == ("why", code)
    assert body["error"]["details"] == {"error_code": code}


@each(
    ("code", "openai", "anthropic"),
    [
        ("invalid_request", "invalid_request_error", "invalid_request_error"),
        ("token_expired", "authentication_error", "authentication_error"),
        ("model_gated", "permission_error", "permission_error"),
        ("model_not_found", "not_found_error", "not_found_error"),
        ("request_too_large", "invalid_request_error", "request_too_large"),
        ("rate_limit_exceeded", "rate_limit_error", "rate_limit_error"),
        ("upstream_error", "server_error", "api_error"),
        ("hub_unavailable", "server_error", "overloaded_error"),
        ("upstream_timeout", "server_error", "timeout_error"),
    ],
)
def test_types_are_those_of_the_references(code: Code, openai: str, anthropic: str) -> None:
    """The type is a word of the API reference that the SDK was written against."""
    denied = Denied(code, "why")
    assert msgspec.json.decode(errors.body(denied, "openai", ""))["error"]["type"] == openai
    assert msgspec.json.decode(errors.body(denied, "anthropic", ""))["error"]["type"] == anthropic


@each("dialect", DIALECTS)
def test_event_of_a_broken_stream(dialect: Dialect) -> None:
    """A failure in a stream is one whole event; those whose events have names have their `event:` line."""
    denied = Denied("upstream_error", "two\nlines")
    event = errors.event(denied, dialect, "req-1")
    assert event.startswith(b"data: {" if dialect == "openai" else b"event: error\ndata: {")
    assert event.endswith(b"}\n\n")
    assert event.count(b"\n\n") == 1
    told = msgspec.json.decode(event.partition(b"data: ")[2])
    body = msgspec.json.decode(errors.body(denied, dialect, "req-1"))
    assert told.items() >= body.items()


def test_a_broken_response_is_an_event_of_its_own_type() -> None:
    """On `/v1/responses` the event has the fields of the SDK's `ResponseErrorEvent`."""
    event = errors.event(Denied("upstream_error", "why"), "responses", "req-1")
    told = ResponseErrorEvent.model_validate_json(event.partition(b"data: ")[2])
    assert (told.type, told.code, told.message, told.param) == ("error", "upstream_error", "why", None)


@each(("seconds", "header"), [(0, "1"), (0.2, "1"), (5, "5"), (29.6, "30"), (120, "120"), (86400, "120")])
def test_retry_after_is_between_one_second_and_two_minutes(seconds: float, header: str) -> None:
    """Whatever the wait is, the header is a whole number that an SDK obeys."""
    found = by_name(errors.lines(Denied("hub_unavailable", "", retry_after=seconds)))
    assert found == {"Retry-After": header}


@each("code", CODES)
def test_no_retry_where_it_does_not_help(code: Code) -> None:
    """Without a time to come back the SDKs are told not to, but for a slow body."""
    found = by_name(errors.lines(Denied(code, "")))
    assert (found.get("x-should-retry") == "false") == (code != "request_timeout")
    assert "Retry-After" not in found


@each("code", CODES)
def test_only_401_asks_for_credentials(code: Code) -> None:
    """401 names the scheme (RFC 9110, section 11.6.1), nothing else does."""
    assert ("WWW-Authenticate" in by_name(errors.lines(Denied(code, "")))) == (STATUS[code] == 401)
