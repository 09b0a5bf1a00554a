"""The fake engine: raw asyncio on uvloop with answers made once, far cheaper than what stands before it.

A plain request is answered at once. Streams tick together, as an engine's steps do: every `--step`
seconds one event, a chunk and a write of its own, goes to each open stream.
"""

import asyncio
import re
import time
from pathlib import Path
from typing import Final, cast

import click
import uvloop

from bench import tls
from bench.messages import ANSWER, LAST_CHUNK, LOCAL, MODELS, STREAM_END, STREAM_HEAD, event

LARGE: Final = 256 * 1024  # bytes; of a larger body only the length is kept
_LENGTH: Final = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: *(\d+)")
_CHUNKED: Final = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_EVENTS: Final = re.compile(rb'"max_tokens": ?(\d+)')
_STREAM: Final = re.compile(rb'"stream": ?true')
_HOLD: Final = re.compile(rb'"user": ?"hold"')


class Ticker:
    """Sends one event at each step to every stream that has some left."""

    def __init__(self, step: float) -> None:
        self._step = step
        self._left: dict[asyncio.Transport, int] = {}
        self._next = 0.0

    def add(self, transport: asyncio.Transport, events: int) -> None:
        """Serve this stream from the next step on."""
        if not self._left:
            loop = asyncio.get_running_loop()
            self._next = loop.time() + self._step
            loop.call_at(self._next, self._tick)
        self._left[transport] = events

    def drop(self, transport: asyncio.Transport) -> None:
        """Forget a stream whose connection is gone."""
        self._left.pop(transport, None)

    def _tick(self) -> None:
        data = event(time.monotonic_ns())
        for transport, left in tuple(self._left.items()):
            transport.write(data)
            self._left[transport] = left - 1
            if left == 1:
                transport.write(STREAM_END)
                del self._left[transport]
        if self._left:
            loop = asyncio.get_running_loop()
            self._next = max(self._next + self._step, loop.time())
            loop.call_at(self._next, self._tick)


class Connection(asyncio.Protocol):
    """One connection of a proxy's."""

    def __init__(self, ticker: Ticker) -> None:
        self._ticker = ticker
        self._buffer = b""
        self._skip = 0
        self._chunks_from = 0  # where in the buffer the chunks of the body under way begin, if it has any

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._ticker.drop(self._transport)

    def data_received(self, data: bytes) -> None:
        if self._skip:
            self._skip -= len(data)
            if self._skip == 0:
                self._transport.write(ANSWER)
            return
        self._buffer = buffer = self._buffer + data
        if self._chunks_from:
            self._take_chunks(buffer)
            return
        end = buffer.find(b"\r\n\r\n") + 4
        if end < 4:
            return
        length = _LENGTH.search(buffer, 0, end)
        if length is None and _CHUNKED.search(buffer, 0, end):
            self._chunks_from = end
            self._take_chunks(buffer)
            return
        missing = end + int(length[1] if length else 0) - len(buffer)
        if missing > 0:
            if missing > LARGE:
                self._skip, self._buffer = missing, b""
            return
        self._buffer = b""
        self._respond(buffer, end)

    def _take_chunks(self, buffer: bytes) -> None:
        """Answer if the last chunk is here. What is asked for is read between chunks: a small body is one."""
        if buffer.endswith(LAST_CHUNK):
            start, self._chunks_from, self._buffer = self._chunks_from, 0, b""
            self._respond(buffer, start)
        elif len(buffer) > LARGE:
            self._buffer = buffer[-len(LAST_CHUNK) :]

    def _respond(self, request: bytes, body: int) -> None:
        if request.startswith(b"GET"):
            self._transport.write(MODELS)
        elif _STREAM.search(request, body):
            self._transport.write(STREAM_HEAD)
            if _HOLD.search(request, body):
                self._transport.write(event(time.monotonic_ns()))
            else:
                found = _EVENTS.search(request, body)
                self._ticker.add(self._transport, int(found[1]) if found else 1)
        else:
            self._transport.write(ANSWER)


async def _serve(port: int, step: float, certificates: Path | None) -> None:
    secure = None
    if certificates is not None:
        tls.make(certificates)
        secure = tls.listener(certificates, "engine")
    ticker = Ticker(step)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(ticker), LOCAL, port, backlog=4096, ssl=secure)
    await server.serve_forever()


@click.command()
@click.option("--port", required=True, type=int)
@click.option("--step", default=0.02, help="Seconds between two events of a stream.")
@click.option(
    "--certificates", type=click.Path(path_type=Path), help="Serve with TLS; a folder for its files."
)
def main(port: int, step: float, certificates: Path | None) -> None:
    """Serve until killed."""
    uvloop.run(_serve(port, step, certificates))


if __name__ == "__main__":
    main()
