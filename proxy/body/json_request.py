"""A body's way from bytes to what was authorized: parsed once, checked against its endpoint's table."""

import json
import math
from dataclasses import dataclass
from typing import Any, Final, Never

import msgspec

from hubgate.proxy import settings
from hubgate.proxy.body.large_json import LargeBody, Pieces
from hubgate.proxy.endpoints import Endpoint
from hubgate.proxy.errors import Denied
from hubgate.proxy.fields.table import Table

JsonObject = dict[str, Any]

_read_json: Final = msgspec.json.Decoder().decode
_encode: Final = msgspec.json.Encoder().encode
_translate: Final = bytes.translate  # mypyc's own takes twice as long

_NONE: Final = frozenset[str]()
_SET: Final = frozenset({"model", "cache_salt"})  # by `InferenceRequest.encode`
_LONG: Final = b"0" * 19
_DIGITS: Final = bytes(ord("0") if 48 <= byte <= 57 else byte for byte in range(256))  # every digit to 0


@dataclass(init=False)
class InferenceRequest:
    """A body that passed the allow-list; `model` is the name as the caller wrote it.

    Of the body there is nothing but what is sent on: a parsed one can take twenty times its bytes.
    """

    endpoint: Endpoint
    model: str
    stream: bool
    withholds_usage: bool  # whether the engine is asked for an event of usage that the caller did not ask for
    rest: Pieces  # the JSON of all fields but those that `encode` sets, behind its opening brace

    def __init__(
        self, endpoint: Endpoint, model: str, rest: Pieces, *, stream: bool, withholds_usage: bool
    ) -> None:
        self.endpoint = endpoint
        self.model = model
        self.stream = stream
        self.withholds_usage = withholds_usage
        self.rest = rest

    @property
    def content_type(self) -> str:
        return "application/json"

    @property
    def spent(self) -> bool:
        """It can be sent again."""
        return False

    def encode(self, *, model: str, cache_salt: str) -> Pieces:
        """The bytes for the engine: what was parsed and checked, under the pinned name, salted.

        In the pieces that are there: in one it would be a copy for each attempt.
        """
        # Neither name nor salt has a character that JSON escapes; and no endpoint takes a model alone.
        salt = f'"cache_salt":"{cache_salt}",' if self.endpoint.salted else ""
        return (f'{{"model":"{model}",{salt}'.encode(), *self.rest)


class _DuplicateKeyError(ValueError):
    """A key stands twice: two parsers could read two different requests."""


def parse(endpoint: Endpoint, raw: bytes | LargeBody, limits: settings.Request) -> InferenceRequest | Denied:
    """Read and check a JSON body. Whatever is not known to be harmless is refused."""
    if endpoint.fields is None or endpoint.kind == "multipart":
        return Denied("unsupported_media_type", "This endpoint takes no JSON.")
    if isinstance(raw, LargeBody):
        return _parse_large(endpoint, endpoint.fields, raw, limits) or parse(endpoint, raw.whole(), limits)
    read = _read(endpoint, endpoint.fields, raw, limits)
    if isinstance(read, Denied):
        return read
    body, canonical = read
    return _accepted(endpoint, body, raw if canonical else b"")


def _parse_large(
    endpoint: Endpoint, table: Table, large: LargeBody, limits: settings.Request
) -> InferenceRequest | None:
    """The request, if what was set apart is nothing that policy reads; `None`: read the body as a whole.

    Refusing is left to that, so that there is one way to be refused.
    """
    text = large.text()
    if text is None:
        return None
    read = _read(endpoint, table, text, limits)
    if isinstance(read, Denied):
        return None
    body, canonical = read
    measured = _encode({name: body[name] for name in body.keys() - table.free_text})
    if large.has_placeholder(measured) or large.names_have_placeholder(body):
        return None
    found = _accepted(endpoint, body, text if canonical else b"")
    rest = large.restored(b"".join(found.rest))
    if rest is None:
        return None
    found.rest = rest
    return found


def _read(
    endpoint: Endpoint, table: Table, raw: bytes, limits: settings.Request
) -> tuple[JsonObject, bool] | Denied:
    """A body that is JSON and passes its table, and whether `raw` is how we would write it."""
    read = _decode(raw)
    if isinstance(read, Denied):
        return read
    body, canonical = read
    extra = limits.extra_fields.get(endpoint.path, _NONE)
    return table.check(body, limits, extra, raw=raw if canonical else b"") or read


def _accepted(endpoint: Endpoint, body: JsonObject, canonical: bytes) -> InferenceRequest:
    """The request of a body, of which `canonical` is the JSON as we would write it, if that is at hand.

    A stream is always asked to tell its usage: limits and the audit rest on it.
    """
    model, stream = body["model"], body.get("stream") is True
    options = body.get("stream_options") or {}
    withholds = stream and endpoint.metered and options.get("include_usage") is not True
    ours = {**endpoint.sends}
    if withholds:
        ours["stream_options"] = {**options, "include_usage": True}
    rest: Pieces = ()
    if canonical and "cache_salt" not in body and not (ours and ours.keys() & body.keys()):
        rest = _without_model(canonical, model)
    if not rest:
        theirs = {name: body[name] for name in body if name not in ours and name not in _SET}
        rest = (memoryview(_encode(theirs))[1:],)
    if ours:
        rest = (_encode(ours)[1:-1] + b",", *rest)
    return InferenceRequest(endpoint, model, rest, stream=stream, withholds_usage=withholds)


def _without_model(canonical: bytes, model: str) -> Pieces:
    """An object's JSON behind its opening brace, without its `model`; nothing if that is not to be seen.

    A quote in a string is escaped, so that this text is a member wherever it stands: the one that is meant,
    if it stands once.
    """
    member = b'"model":' + _encode(model)
    if canonical.count(member) != 1:
        return ()
    start = canonical.find(member)
    end = start + len(member)
    if canonical[end] == 0x2C:  # a comma
        return canonical[1:start], canonical[end + 1 :]
    return canonical[1 : start - 1], canonical[end:]


def _decode(raw: bytes) -> tuple[JsonObject, bool] | Denied:
    try:
        body = _canonical(raw)
        canonical = body is not None
        if not canonical:
            body = (_STRICT_LONG if _has_long_number(raw) else _STRICT).decode(raw.decode("utf-8"))
            _encode(body)  # refuses what could not be sent on: lone surrogates
    except _DuplicateKeyError:
        return Denied("invalid_request", "A key stands twice in the body; each may stand once.")
    except (ValueError, OverflowError):
        return Denied("invalid_request", "The body is not JSON (RFC 8259, UTF-8).")
    except RecursionError:
        return Denied("invalid_request", "The body is nested too deeply.")
    if not isinstance(body, dict):
        return Denied("invalid_request", "The body must be a JSON object.")
    return body, canonical


def _canonical(raw: bytes) -> Any:
    """The body, if it is written as we would write it: then there are no two ways to read it.

    That is how the SDKs write, and costs a twentieth of a parser that watches for each oddity.
    `None` means that the strict one has to say what is odd, if anything.
    """
    try:
        body = _read_json(raw)
        return body if _encode(body) == raw and not _has_long_number(raw) else None
    except (msgspec.DecodeError, ValueError, OverflowError, RecursionError):
        return None


def _has_long_number(raw: bytes) -> bool:
    """Whether nineteen digits stand in a row: what 64 bits may not hold."""
    return bool(_translate(raw, _DIGITS).partition(_LONG)[1])  # `in` and `find` take longer


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
