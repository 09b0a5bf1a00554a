"""Carries one authorized request to an engine and its answer back, byte by byte."""

import asyncio
import re
from dataclasses import dataclass
from io import BytesIO
from typing import Final

import aiohttp
import msgspec
from aiohttp import web

from proxy import errors, settings
from proxy.errors import Denied
from proxy.exchange import Exchange
from proxy.metrics import Metrics
from proxy.upstream import headers

MAX_ERROR: Final = 64 * 1024  # bytes of an engine's error that are read
LARGE: Final = 1024 * 1024  # bytes; aiohttp would write a body in one go (TOO_LARGE_BYTES_BODY)
MAX_COUNTED: Final = 4 * 1024 * 1024  # bytes of a plain answer that are kept to read its usage

# The engine's words on a bad request help; where its files lie is nobody's business.
_PATH = re.compile(r"(?:file://|(?<![\w/.]))/(?:[\w.@-]+/)+[\w.@-]*")


@dataclass(frozen=True, slots=True)
class Stale:
    """The engine is not what the proxy knew: gone, restarted, or without this model.

    Nothing of the request was accepted, so it may be sent again after a new `ensure`.
    """


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int | None = 0


class _Answer(msgspec.Struct):
    usage: _Usage | None = None


class _EngineError(msgspec.Struct):
    message: str = ""


class _EngineErrorBody(msgspec.Struct):
    error: _EngineError | None = None  # FastAPI's own 404 has none: the model has no such route


class Relay:
    """The data path to all engines."""

    def __init__(self, session: aiohttp.ClientSession, timeouts: settings.Timeouts, metrics: Metrics) -> None:
        self._session = session
        self._timeouts = timeouts
        self._metrics = metrics

    async def forward(
        self,
        exchange: Exchange,
        request: web.BaseRequest,
        *,
        url: str,
        body: bytes,
        grant: str,
    ) -> web.StreamResponse | Denied | Stale:
        """Send `body` to the engine at `url` under this grant, and the answer to the caller.

        The caller leaving cancels this coroutine, which closes the engine's connection and with
        that ends the generation.
        """
        sent = headers.to_upstream(request.headers.items(), grant=grant, request_id=exchange.request_id)
        try:
            async with asyncio.timeout(self._timeouts.first_byte):
                data = body if len(body) < LARGE else BytesIO(body)  # shared, not copied; sent piece by piece
                response = await self._session.post(url, data=data, headers=sent, allow_redirects=False)
        except aiohttp.ClientConnectorError:
            return Stale()
        except TimeoutError:
            return _late()
        except (aiohttp.ClientError, OSError):
            return _broken()
        async with response:
            if response.status in (401, 421):
                return Stale()
            if response.status != 200:
                return await self._refusal(response)
            if not _framed(response):
                return _broken()
            return await self._relay(exchange, request, response)

    async def _relay(
        self,
        exchange: Exchange,
        request: web.BaseRequest,
        response: aiohttp.ClientResponse,
    ) -> web.StreamResponse | Denied:
        answer = web.StreamResponse(headers=headers.to_caller(response.headers))
        answer.headers.update(exchange.headers())
        streaming = response.content_type == "text/event-stream"
        exchange.answered(200)
        kept = _Kept(streaming)
        try:
            while chunk := await self._next(response):
                if exchange.first_byte is None:
                    exchange.first_byte = exchange.elapsed
                    await answer.prepare(request)
                await answer.write(chunk)
                exchange.bytes_out += len(chunk)
                kept.add(chunk)
        except TimeoutError:
            return await _break_off(exchange, request, answer, _late(), streaming=streaming)
        except (aiohttp.ClientPayloadError, aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
            return await _break_off(exchange, request, answer, _broken(), streaming=streaming)
        if exchange.first_byte is None:
            await answer.prepare(request)
        await answer.write_eof()
        self._count(exchange, kept.usage())
        return answer

    async def _next(self, response: aiohttp.ClientResponse) -> bytes:
        """The next bytes as they come, b"" at the end. Raises `TimeoutError` after `idle` seconds."""
        async with asyncio.timeout(self._timeouts.idle):
            return await response.content.readany()

    async def _refusal(self, response: aiohttp.ClientResponse) -> Denied:
        """An engine's refusal in our words: its own for a bad request, none of them for its own faults."""
        if response.status not in (400, 404, 413, 422):
            return _broken()
        raw = b""
        try:
            while len(raw) < MAX_ERROR and (chunk := await self._next(response)):
                raw += chunk
            error = msgspec.json.decode(raw, type=_EngineErrorBody).error
        except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError, UnicodeDecodeError):
            return _broken()
        if error is not None:
            return Denied("invalid_request", _PATH.sub("(path)", error.message)[:2000])
        if response.status == 404:
            return Denied("invalid_request", f"This model does not answer on {response.url.path}.")
        return _broken()

    def _count(self, exchange: Exchange, usage: _Usage | None) -> None:
        if usage is None:
            return
        exchange.prompt_tokens = usage.prompt_tokens
        exchange.completion_tokens = usage.completion_tokens or 0
        self._metrics.tokens.labels("prompt").inc(exchange.prompt_tokens)
        self._metrics.tokens.labels("completion").inc(exchange.completion_tokens)


class _Kept:
    """As much of an answer as its token usage can stand in: all of a plain one, a stream's end."""

    def __init__(self, streaming: bool) -> None:
        self._streaming = streaming
        self._data = bytearray()
        self._whole = True

    def add(self, chunk: bytes) -> None:
        if self._streaming:
            self._data = (self._data + chunk)[-4096:]
        elif len(self._data) + len(chunk) <= MAX_COUNTED:
            self._data += chunk
        else:
            self._whole = False

    def usage(self) -> _Usage | None:
        if not self._whole:
            return None
        for candidate in self._candidates():
            try:
                usage = msgspec.json.decode(candidate, type=_Answer).usage
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
            if usage is not None:
                return usage
        return None

    def _candidates(self) -> list[bytes]:
        data = bytes(self._data)
        if not self._streaming:
            return [data]
        events = [line[5:].strip() for line in data.split(b"\n") if line.startswith(b"data:")]
        return events[:-3:-1]  # usage stands in the event before [DONE]


def _framed(response: aiohttp.ClientResponse) -> bool:
    """Whether the end of the answer can be told from the death of the engine, and its bytes are plain."""
    coding = response.headers.get("Transfer-Encoding", "").lower()
    plain = response.headers.get("Content-Encoding", "identity").lower() == "identity"
    return plain and (coding == "chunked" or (not coding and "Content-Length" in response.headers))


async def _break_off(
    exchange: Exchange,
    request: web.BaseRequest,
    answer: web.StreamResponse,
    told: Denied,
    *,
    streaming: bool,
) -> web.StreamResponse | Denied:
    """End a broken answer so that it cannot look complete: an error event, and no final chunk."""
    if not answer.prepared:
        return told  # the caller has seen nothing yet
    exchange.failed(told.code)
    if streaming:
        event = b"\n\n" + errors.event(told, exchange.dialect, exchange.request_id)
        exchange.bytes_out += len(event)
        await answer.write(event)
    if request.transport is not None:
        request.transport.close()
    return answer


def _broken() -> Denied:
    return Denied("upstream_error", "The model failed to answer.", retry_after=5)


def _late() -> Denied:
    return Denied("upstream_timeout", "The model did not answer in time.")
