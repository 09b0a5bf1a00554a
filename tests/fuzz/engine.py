"""An engine for which whatever h11 refuses, or anybody could read otherwise, is a fault.

Each request that comes gets a number, which its answer tells: so it is known who had it sent.
"""

import asyncio
import json
import ssl
import time
from dataclasses import dataclass, field
from typing import Any, Final, cast

import h11
from joserfc.jwk import KeySet

from hubgate.wire.control_api import GRANT_HEADER
from hubgate.wire.cost import COST_HEADER
from hubgate.wire.seal import SealError, verify_grant
from tests.fakes.answers import chunk, head, whole
from tests.fakes.engine import CONTINUE, LOCAL, RawEngine, Received
from tests.fakes.forms import fields
from tests.fuzz.mutations import GONE
from tests.proxy.http import grammar

# Every header that the proxy sends, or passes on (proxy/upstream/header_filter.py).
_SENT: Final = {
    *(b"host", b"user-agent", b"accept-encoding", b"content-type", b"content-length", b"transfer-encoding"),
    *(b"expect", b"x-request-id", GRANT_HEADER.lower().encode(), b"accept", b"traceparent", b"tracestate"),
    COST_HEADER.lower().encode(),
}
_PASSED: Final = {b"accept", b"traceparent", b"tracestate"}  # as the caller wrote them, be it twice
_STREAM: Final = [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")]


class DoubleKeyError(ValueError):
    """A key stands twice in one object."""


def strict(body: bytes) -> Any:
    """JSON that there is one way to read. Raises `ValueError`."""
    return json.loads(body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise DoubleKeyError
    return found


def _no_constant(text: str) -> None:
    raise ValueError(text)


@dataclass(frozen=True, slots=True)
class Had:
    """One request that the engine had."""

    path: str
    id: str
    model: str
    json: dict[str, Any] | None
    recording: bytes | None  # of a form


class StrictEngine(RawEngine):
    """Answers each request with its number, as JSON or as a stream, whichever it asks for."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls)
        self.faults: list[str] = []
        self.had: dict[int, Had] = {}  # by its number, until somebody takes it
        self.count = 0
        self.grants: set[tuple[str, str]] = set()  # seen and good, with the model
        self.keys: KeySet
        self.aud = self.boot = ""

    async def up(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), LOCAL, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def granted(self, value: str, model: str) -> bool:
        """Whether this grant is good, and for this model."""
        if (value, model) in self.grants:
            return True
        try:
            grant = verify_grant(value, self.keys, aud=self.aud, boot=self.boot, now=time.time())
        except SealError:
            return False
        if grant.kind == "use" and grant.model == model:
            self.grants.add((value, model))
            return True
        return False


@dataclass(slots=True)
class _Coming:
    """A request that is being read."""

    head: h11.Request
    body: bytearray = field(default_factory=bytearray)


class _Connection(asyncio.Protocol):
    """One connection of the proxy's."""

    def __init__(self, engine: StrictEngine) -> None:
        self._engine = engine
        self._parser = h11.Connection(h11.SERVER)
        self._raw = bytearray()
        self._coming: _Coming | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._raw += data
        try:
            self._parser.receive_data(data)
            self._read()
        except (h11.RemoteProtocolError, AssertionError, ValueError, KeyError) as error:
            self._fault(f"{type(error).__name__}: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if not self._raw:
            return
        # A form may be cut short, and what is of a caller who left.
        if b"Expect: 100-continue" not in self._raw and GONE.encode() not in self._raw:
            self._fault("a request ends with its connection")

    def _fault(self, told: str) -> None:
        self._engine.faults.append(f"engine: {told}: {bytes(self._raw)[:4000]!r}")
        self._raw.clear()
        self._transport.abort()

    def _read(self) -> None:
        while True:
            event = self._parser.next_event()
            match event:
                case h11.Request():
                    self._coming = _Coming(event)
                    if self._parser.they_are_waiting_for_100_continue:
                        self._parser.send(h11.InformationalResponse(status_code=100, headers=[]))
                        self._transport.write(CONTINUE)
                case h11.Data():
                    assert self._coming is not None
                    self._coming.body += event.data
                case h11.EndOfMessage():
                    assert self._coming is not None
                    assert not event.headers, "there are trailers"
                    self._whole(self._coming)
                case _:
                    return

    def _whole(self, coming: _Coming) -> None:
        engine, raw, body = self._engine, bytes(self._raw), bytes(coming.body)
        names = [name for name, _ in coming.head.headers]
        headers = dict(coming.head.headers)
        assert set(names) <= _SENT, "a header that is not sent"
        own = [name for name in names if name not in _PASSED]
        assert len(own) == len(set(own)), "a header stands twice"
        found = grammar.requests(raw)  # by another reader
        assert len(found) == 1, "no plain request"
        second = found[0]
        assert (second.method, second.target, second.body) == (b"POST", coming.head.target, body), (
            "two readings"
        )
        asked = Received(raw)
        sound = None
        values: dict[str, Any] | None = None
        if headers[b"content-type"] == b"application/json":
            values = strict(body)
            model = values["model"]
        else:
            parts = fields(asked)
            assert [name for name, _ in parts].count("model") == 1, "a form without its model"
            model = dict(parts)["model"].decode()
            sound = dict(parts)["file"]
        assert engine.granted(headers[GRANT_HEADER.lower().encode()].decode(), model), (
            f"no grant for {model!r}"
        )
        engine.count += 1
        name = headers[b"x-request-id"].decode()
        engine.had[engine.count] = Had(coming.head.target.decode(), name, model, values, sound)
        self._raw.clear()
        self._coming = None
        self._answer(
            b'{"id":"%d"}' % engine.count, streamed=values is not None and values.get("stream") is True
        )
        # As much of an answer as h11 has to know of to read on.
        self._parser.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
        self._parser.send(h11.EndOfMessage())
        self._parser.start_next_cycle()

    def _answer(self, told: bytes, *, streamed: bool) -> None:
        if streamed:
            event = chunk(b"data: %b\n\n" % told) + chunk(b"data: [DONE]\n\n")
            self._transport.write(head(200, _STREAM) + event + chunk(b""))
        else:
            self._transport.write(whole(200, told))
