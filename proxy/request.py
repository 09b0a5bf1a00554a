"""A body's way from bytes to what was authorized: parsed once, checked against its endpoint's table."""

import json
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Never

import msgspec

from proxy import settings
from proxy.endpoints import Endpoint
from proxy.errors import Denied

JsonObject = dict[str, Any]

_DIGITS: Final = bytes(ord("0") if 48 <= byte <= 57 else byte for byte in range(256))  # every digit to 0


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """A body that passed the allow-list; `model` is the name as the caller wrote it."""

    endpoint: Endpoint
    model: str
    stream: bool
    body: JsonObject

    content_type: ClassVar = "application/json"
    spent: ClassVar = False  # it can be sent again

    @property
    def withholds_usage(self) -> bool:
        """Whether the engine is asked for an event of usage that the caller did not ask for."""
        options = self.body.get("stream_options") or {}
        return self.stream and self.endpoint.metered and options.get("include_usage") is not True

    def encode(self, *, model: str, cache_salt: str) -> bytes:
        """The bytes for the engine: what was parsed and checked, under the pinned name, salted.

        A stream is always asked to tell its usage: limits and the audit rest on it.
        """
        ours: JsonObject = {"model": model}
        if self.endpoint.salted:
            ours["cache_salt"] = cache_salt
        if self.withholds_usage:
            ours["stream_options"] = {**(self.body.get("stream_options") or {}), "include_usage": True}
        return msgspec.json.encode({**self.body, **self.endpoint.sends, **ours})


class _DuplicateKeyError(ValueError):
    """A key stands twice: two parsers could read two different requests."""


def parse(endpoint: Endpoint, raw: bytes, limits: settings.Request) -> InferenceRequest | Denied:
    """Read and check a JSON body. Whatever is not known to be harmless is refused."""
    if endpoint.fields is None or endpoint.kind == "multipart":
        return Denied("unsupported_media_type", "This endpoint takes no JSON.")
    body = _decode(raw)
    if isinstance(body, Denied):
        return body
    extra = limits.extra_fields.get(endpoint.path, frozenset())
    refused = endpoint.fields.check(body, limits, extra)
    if refused is not None:
        return refused
    return InferenceRequest(endpoint, body["model"], body.get("stream") is True, body)


def _decode(raw: bytes) -> JsonObject | Denied:
    try:
        body = _canonical(raw)
        if body is None:
            body = (_STRICT_LONG if _has_long_number(raw) else _STRICT).decode(raw.decode("utf-8"))
            msgspec.json.encode(body)  # refuses what could not be sent on: lone surrogates
    except _DuplicateKeyError:
        return Denied("invalid_request", "A key stands twice in the body; each may stand once.")
    except (ValueError, OverflowError):
        return Denied("invalid_request", "The body is not JSON (RFC 8259, UTF-8).")
    except RecursionError:
        return Denied("invalid_request", "The body is nested too deeply.")
    if not isinstance(body, dict):
        return Denied("invalid_request", "The body must be a JSON object.")
    return body


def _canonical(raw: bytes) -> Any:
    """The body, if it is written as we would write it: then there are no two ways to read it.

    That is how the SDKs write, and costs a twentieth of a parser that watches for each oddity.
    `None` means that the strict one has to say what is odd, if anything.
    """
    try:
        body = msgspec.json.decode(raw)
        return body if msgspec.json.encode(body) == raw and not _has_long_number(raw) else None
    except (msgspec.DecodeError, ValueError, OverflowError, RecursionError):
        return None


def _has_long_number(raw: bytes) -> bool:
    """Whether nineteen digits stand in a row: what 64 bits may not hold."""
    return b"0" * 19 in raw.translate(_DIGITS)


def _unique(pairs: list[tuple[str, Any]]) -> JsonObject:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _DuplicateKeyError
    return found


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):  # 1e999 would be sent on as null
        raise ValueError("a number is too large")
    return number


def _whole(text: str) -> int:
    number = int(text)
    if not -(2**63) <= number < 2**64:  # no field means more, and the engine counts in 64 bits
        raise ValueError("a number is too large")
    return number


def _no_constant(_: str) -> Never:
    raise ValueError("NaN and Infinity are not JSON")


_STRICT: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite, parse_constant=_no_constant)
_STRICT_LONG: Final = json.JSONDecoder(  # apart, since token ids are many and short
    object_pairs_hook=_unique, parse_float=_finite, parse_int=_whole, parse_constant=_no_constant
)
