"""A body's way from bytes to what was authorized: parsed once, checked against its endpoint's table."""

import asyncio
from dataclasses import dataclass
from typing import Final

import msgspec

from hubgate.proxy import settings
from hubgate.proxy.body import large_json, strict_json
from hubgate.proxy.body.large_json import LargeBody, Pieces
from hubgate.proxy.body.strict_json import JsonObject
from hubgate.proxy.endpoints import Endpoint
from hubgate.proxy.errors import Denied
from hubgate.proxy.fields import superfluous
from hubgate.proxy.fields.table import Table

_read_json: Final = msgspec.json.Decoder().decode
_encode: Final = msgspec.json.Encoder().encode
_translate: Final = bytes.translate  # mypyc's own takes twice as long

_NONE: Final = frozenset[str]()
_SET: Final = frozenset({"model", "cache_salt"})  # by `InferenceRequest.encode`
_LONG: Final = b"0" * 19


@dataclass(init=False)
class InferenceRequest:
    """A body that passed the allow-list; `model` is the name as the caller wrote it.

    Of the body there is nothing but what is sent on: a parsed one can take twenty times its bytes.
    """

    endpoint: Endpoint
    model: str
    stream: bool
    places: int  # as how many requests it counts
    cost: str  # what the engine's gate is told of it, see hubgate.wire.cost
    withholds_usage: bool  # whether the engine is asked for an event of usage that the caller did not ask for
    rest: Pieces  # the JSON of all fields but those that `encode` sets, behind its opening brace

    def __init__(
        self,
        endpoint: Endpoint,
        model: str,
        rest: Pieces,
        *,
        stream: bool,
        places: int,
        cost: str,
        withholds_usage: bool,
    ) -> None:
        self.endpoint = endpoint
        self.model = model
        self.stream = stream
        self.places = places
        self.cost = cost
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


def parse(endpoint: Endpoint, raw: bytes, limits: settings.Request) -> InferenceRequest | Denied:
    """Read and check a JSON body. Whatever is not known to be harmless is refused."""
    if endpoint.fields is None or endpoint.kind == "multipart":
        return Denied("unsupported_media_type", "This endpoint takes no JSON.")
    careful = _has_odd_numbers(raw)
    if refused := large_json.refusal(raw, odd_numbers=careful):
        return refused
    body = None if careful else _quick(raw)
    known = raw
    if body is None or _encode(body) != raw:
        known = b""
        read = _strict(raw, careful=careful)
        if isinstance(read, Denied):
            return read
        body = read
        if refused := _unsendable(body):
            return refused
    table = endpoint.fields
    tidied = None in body.values() and _tidy(endpoint, table, body, limits)
    if tidied:
        known = _encode(body)
    refused = _check(endpoint, table, body, limits, known)
    # What nobody reads is looked for where something is amiss: most bodies have none of it.
    if refused is not None and not tidied and _tidy(endpoint, table, body, limits):
        known = _encode(body)
        refused = _check(endpoint, table, body, limits, known)
    return refused or _accepted(endpoint, table, body, known)


async def parse_large(
    endpoint: Endpoint, large: LargeBody, limits: settings.Request
) -> InferenceRequest | Denied:
    """As `parse`, with what nobody here need read left out; others are served between its steps."""
    if not large.scanned or endpoint.fields is None or endpoint.kind == "multipart":
        return parse(endpoint, large.whole(), limits)
    if not large.has_cut_name:  # which names are the same could not be seen then
        found = await _parse_scanned(endpoint, endpoint.fields, large, limits)
        if not isinstance(found, Denied) or not large.spans:
            return found
        if not large.parsable:
            return _without_place(found)
    elif not large.parsable:
        return _too_large("The names of keys are too long for a body of this size.")
    # A refusal tells places by what stands before them.
    return await _parse_scanned(endpoint, endpoint.fields, large, limits, whole=True)


async def _parse_scanned(  # noqa: C901 - steps, between which others are served
    endpoint: Endpoint, table: Table, large: LargeBody, limits: settings.Request, *, whole: bool = False
) -> InferenceRequest | Denied:
    """Parse what is left of a large body without its spans. No step takes more than some 10 ms."""
    text, spans = (large.whole(), []) if whole else (large.text(), large.spans)
    read = await _read_scanned(text, careful=large.has_odd_numbers or _has_odd_numbers(text))
    if isinstance(read, Denied):
        return read
    body, known = read
    await asyncio.sleep(0)
    if found := table.superfluous(body, limits.extra_fields.get(endpoint.path, _NONE)):
        await asyncio.sleep(0)
        if spans:
            spans = large.without(body, found)
        superfluous.remove(found)
        known = b""
        await asyncio.sleep(0)
    if spans:
        texts, numbers = table.free_text - _SET, table.free_numbers - _SET
        if large.has_text_mark(_without(body, texts)) or large.has_number_mark(_without(body, numbers)):
            known = b""
            rest = large.restore_fields(body, texts & numbers, spans)
            if rest is None:
                told = "Besides its texts, media and token ids the body is too large."
                return _check(endpoint, table, body, limits, known) or _too_large(told)
            spans = rest
            await asyncio.sleep(0)
    if table.translate(body):
        known = b""
    if refused := _check(endpoint, table, body, limits, known):
        return refused
    await asyncio.sleep(0)
    accepted = _accepted(endpoint, table, body, known)
    if spans:
        pieces = large.restored(b"".join(accepted.rest), spans)
        if pieces is None:
            raise RuntimeError("a span of a body was lost")
        accepted.rest = pieces
    return accepted


async def _read_scanned(text: bytes, *, careful: bool) -> tuple[JsonObject, bytes] | Denied:
    """The body, and its JSON where that is as we would write it."""
    body = None if careful else _quick(text)
    await asyncio.sleep(0)
    if body is not None and _encode(body) == text:
        return body, text
    await asyncio.sleep(0)
    read = _strict(text, careful=careful)
    if isinstance(read, Denied):
        return read
    await asyncio.sleep(0)
    return _unsendable(read) or (read, b"")


def _tidy(endpoint: Endpoint, table: Table, body: JsonObject, limits: settings.Request) -> bool:
    """Leave out of a body what no engine reads, and translate the rest; whether anything is otherwise now."""
    found = table.superfluous(body, limits.extra_fields.get(endpoint.path, _NONE))
    superfluous.remove(found)
    return table.translate(body) or bool(found)


def _without_place(refused: Denied) -> Denied:
    """A refusal that tells no place within a field: what was cut out was not counted."""
    if refused.param is None or f"`{refused.param}[" not in refused.message:
        return refused
    told = f"`{refused.param}` has a key or a value that is not accepted here."
    return Denied(refused.code, told, refused.param)


def _without(body: JsonObject, names: frozenset[str]) -> bytes:
    return _encode({name: body[name] for name in body if name not in names})


def _check(
    endpoint: Endpoint, table: Table, body: JsonObject, limits: settings.Request, canonical: bytes
) -> Denied | None:
    return table.check(body, limits, limits.extra_fields.get(endpoint.path, _NONE), raw=canonical)


def _accepted(endpoint: Endpoint, table: Table, body: JsonObject, canonical: bytes) -> InferenceRequest:
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
    places = table.places(body)
    return InferenceRequest(
        endpoint,
        model,
        rest,
        stream=stream,
        places=places,
        cost=table.cost(body, places),
        withholds_usage=withholds,
    )


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


def _quick(raw: bytes) -> JsonObject | None:
    """The body, by a parser that lets oddities pass: there are none if it is written as we would write it.

    That is how the SDKs write, and costs a twentieth of a parser that watches for each oddity.
    `None` means that the strict one has to say what is odd.
    """
    try:
        body = _read_json(raw)
    except (msgspec.DecodeError, ValueError, OverflowError):
        return None
    return body if isinstance(body, dict) else None


def _strict(raw: bytes, *, careful: bool) -> JsonObject | Denied:
    try:
        body = strict_json.decode(raw.decode("utf-8"), long_numbers=careful)
    except strict_json.DuplicateKeyError:
        return Denied("invalid_request", "A key stands twice in the body; each may stand once.")
    except (ValueError, OverflowError):
        return large_json.not_json()
    return body if isinstance(body, dict) else Denied("invalid_request", "The body must be a JSON object.")


def _unsendable(body: JsonObject) -> Denied | None:
    """Refuses what could not be written as UTF-8: lone surrogates."""
    try:
        _encode(body)
    except ValueError:
        return large_json.not_json()
    return None


def _has_odd_numbers(raw: bytes) -> bool:
    """Whether nineteen digits stand in a row, which 64 bits may not hold, or there are many exponents.

    `_read_json` takes 6 to 10 µs for a number near the ends of a double's range, the strict parser 0.6.
    """
    shapes = _translate(raw, large_json.SHAPES)
    return bool(shapes.partition(_LONG)[1]) or shapes.count(large_json.EXPONENT) > large_json.FEW_EXPONENTS


def _too_large(message: str) -> Denied:
    return Denied("request_too_large", message)
