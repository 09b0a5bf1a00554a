"""The client's end of a connection: as little work for each byte as it takes to notice every fault."""

import asyncio
import re
import time
from collections.abc import Iterator
from typing import Final, cast

from bench.messages import LAST_CHUNK

_LENGTH: Final = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: *(\d+)")


class LoadError(Exception):
    """An answer was not what it had to be; a figure taken from such a run means nothing."""


def complete(data: bytes) -> bool:
    """Whether this is a whole answer: by its length, or by its last chunk."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return False
    length = _LENGTH.search(data, 0, end + 2)
    return len(data) >= end + 4 + int(length[1]) if length else data.endswith(LAST_CHUNK)


class Client(asyncio.Protocol):
    """A keep-alive connection; each subclass knows one kind of answer."""

    def __init__(self) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._fail(f"the connection was closed in the middle ({exc})")

    def close(self) -> None:
        """Hang up; whatever was still awaited is not any more."""
        self.ended.cancel()
        if self._transport is not None:
            self._transport.abort()

    def _write(self, request: bytes) -> None:
        if self._transport is None:
            self._fail("the connection was closed between two answers")
        else:
            self._transport.write(request)

    def _fail(self, why: str) -> None:
        if not self.ended.done():
            self.ended.set_exception(LoadError(why))


class Caller(Client):
    """Sends requests one after the other and takes the time of each."""

    def __init__(self, requests: Iterator[bytes], marker: bytes) -> None:
        """An answer that does not contain `marker` is a fault."""
        super().__init__()
        self._requests = requests
        self._marker = marker
        self._buffer = b""
        self._deadline = 0.0
        self.times: list[float] = []
        self.bytes = 0

    async def go(self, deadline: float) -> None:
        """Send until the deadline (monotonic seconds) or the last request. Raises `LoadError`."""
        self.ended = asyncio.get_running_loop().create_future()
        self._deadline = deadline
        self._send()
        await self.ended

    def stop(self) -> None:
        """Let the request that is under way be the last."""
        self._deadline = 0.0

    def data_received(self, data: bytes) -> None:
        self._buffer = buffer = self._buffer + data if self._buffer else data
        if not complete(buffer):
            return
        now = time.monotonic()
        self._buffer = b""
        if buffer[9:12] != b"200" or self._marker not in buffer:
            self._fail(f"the answer was {buffer[:600]!r}")
            return
        self.times.append(now - self._begun)
        self.bytes += len(buffer)
        if now < self._deadline:
            self._send()
        else:
            self.ended.set_result(None)

    def _send(self) -> None:
        request = next(self._requests, None)
        if request is None:
            self.ended.set_result(None)
            return
        self._begun = time.monotonic()
        self._write(request)


class Listener(Client):
    """Keeps one stream, each read with its time (monotonic nanoseconds); it is looked into afterwards."""

    def __init__(self, request: bytes) -> None:
        super().__init__()
        self._request = request
        self._tail = b""
        self.started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.reads: list[tuple[int, bytes]] = []
        self._more: asyncio.Future[None] | None = None

    async def more(self) -> None:
        """Wait for the next read of a stream that goes on. Raises `LoadError` if it does not."""
        self._more = asyncio.get_running_loop().create_future()
        await asyncio.wait((self._more, self.ended), return_when=asyncio.FIRST_COMPLETED)
        if self.ended.done():
            self.ended.result()
            raise LoadError("a stream that should have gone on has ended")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._write(self._request)

    def data_received(self, data: bytes) -> None:
        self.reads.append((time.monotonic_ns(), data))
        if self._more is not None and not self._more.done():
            self._more.set_result(None)
        if not self.started.done():
            seen = b"".join(read for _, read in self.reads)
            if len(seen) > 12 and seen[9:12] != b"200":
                self._fail(f"the answer was {seen[:600]!r}")
            elif b"data: " in seen:
                self.started.set_result(None)
        self._tail = (self._tail + data)[-len(LAST_CHUNK) :]
        if self._tail == LAST_CHUNK and not self.ended.done():
            self.ended.set_result(None)

    def _fail(self, why: str) -> None:
        super()._fail(why)
        if not self.started.done():
            self.started.set_exception(LoadError(why))

    def close(self) -> None:
        """Hang up; whatever was still awaited is not any more."""
        self.started.cancel()
        super().close()
