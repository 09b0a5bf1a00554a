"""A form whose fields are read and checked while its file is still coming."""

import math
import secrets
from typing import Any

import msgspec

from hubgate.proxy import settings
from hubgate.proxy.body import multipart
from hubgate.proxy.body.multipart import Form, UploadedFile, Values
from hubgate.proxy.body.reader import BodyReader, CutShortError
from hubgate.proxy.context import RequestContext
from hubgate.proxy.endpoints import Endpoint
from hubgate.proxy.errors import Denied
from hubgate.proxy.fields.table import Table
from hubgate.proxy.http.request import ServerRequest

# What the engine is asked for besides: vllm/entrypoints/speech_to_text/transcription/protocol.py.
_ASKS, _ASKS_OFTEN = "stream_include_usage", "stream_continuous_usage_stats"


class FormSource:
    """The caller's form, read no further than somebody asks for; counts what came."""

    def __init__(
        self, bodies: BodyReader, context: RequestContext, request: ServerRequest, form: Form, largest: int
    ) -> None:
        self.form = form
        self._bodies = bodies
        self._context = context
        self._request = request
        self._largest = largest
        self._pace = bodies.pace()

    async def advance(self) -> Denied | bool:
        """Read some more; false if that was all, which a form must have said by itself."""
        part = await self._bodies.next(self._request, self._pace)
        if isinstance(part, Denied):
            return part
        if not part:
            return False if self.form.ended else multipart.malformed()
        self._context.bytes_in += len(part)
        if self._context.bytes_in > self._largest:
            return self._bodies.too_large()
        sub = "" if self._context.identity is None else self._context.identity.sub
        await self._bodies.turns.begin(sub)
        try:
            return self.form.feed(part) or True
        finally:
            self._bodies.turns.end(sub)


class Upload:
    """An `InferenceRequest` with a file, which is passed on as it comes and never held.

    Once it is `spent` some of it may be with an engine: it cannot be sent to another.
    """

    def __init__(
        self, source: FormSource, file: UploadedFile, values: Values, places: int, cost: str
    ) -> None:
        self.model: str = values["model"]
        self.stream = values.get("stream") is True
        self.places = places
        self.cost = cost
        self.withholds_usage = self.stream and values.get(_ASKS) is not True
        self.spent = False
        self._boundary = secrets.token_hex(16)
        self.content_type = f"multipart/form-data; boundary={self._boundary}"
        self._source = source
        self._file = file
        self._values = values
        self._opening = b""
        self._closed = False

    def encode(self, *, model: str, cache_salt: str) -> "Upload":
        """Itself, to be `read` for the engine: under the pinned name; a form has no field for the salt."""
        del cache_salt
        values = {**self._values, "model": model}
        if self.withholds_usage:
            values.pop(_ASKS_OFTEN, None)
            values[_ASKS] = True
        self._opening = multipart.opening(values, self._file, self._boundary)
        return self

    async def read(self) -> bytes:
        """The next bytes for the engine, b"" at the end. Raises `CutShortError`.

        The closing boundary is given only when all of the caller's body was seen and found good.
        """
        if not self.spent:
            self.spent = True
            return self._opening
        while not self._closed:
            if content := self._source.form.take():
                return content
            more = await self._source.advance()
            if isinstance(more, Denied):
                raise CutShortError(more)
            if not more:
                self._closed = True
                return multipart.closing(self._boundary)
        return b""


async def receive(
    bodies: BodyReader,
    context: RequestContext,
    request: ServerRequest,
    endpoint: Endpoint,
    limits: settings.Request,
) -> Upload | Denied:
    """Read a form as far as its file, and check what stands before it by the endpoint's table."""
    refused = bodies.refusal(request, "multipart/form-data")
    if refused is not None:
        return refused
    boundary = multipart.boundary(request.head.header("content-type") or "")
    if boundary is None or endpoint.fields is None:
        return multipart.malformed()
    bodies.invite(request)
    source = FormSource(bodies, context, request, form := Form(boundary), limits.max_body_bytes)
    while form.file is None:
        if form.ended:
            return Denied("invalid_request", "`file` is missing.", multipart.FILE)
        more = await source.advance()
        if isinstance(more, Denied):
            return more
    values = {name: _typed(endpoint.fields, name, value) for name, value in form.fields.items()}
    extra = limits.extra_fields.get(endpoint.path, frozenset())
    refused = endpoint.fields.check({**values, multipart.FILE: form.file.name}, limits, extra)
    places = endpoint.fields.places(values)
    return refused or Upload(source, form.file, values, places, endpoint.fields.cost(values, places))


def _typed(table: Table, name: str, value: str | list[str]) -> Any:
    """A field as what its row says it is; as it came where it cannot be read so, which the check refuses."""
    row = table.allowed.get(name)
    if row is None:
        return value
    try:
        typed = msgspec.convert(value, row.type, strict=False)
    except msgspec.ValidationError:
        return value
    if isinstance(typed, float) and not math.isfinite(typed):
        return value
    if isinstance(typed, int) and not -(2**63) <= typed < 2**63:  # what the engine counts in
        return value
    return typed
