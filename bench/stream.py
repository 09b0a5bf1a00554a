"""What a recorded stream holds: its events, when each came, and whether all of it did."""

import re
from collections.abc import Iterable
from typing import Final

from bench.client import LoadError
from bench.messages import EVENT

_SENT: Final = re.compile(rb"@(\d+)@")
DONE: Final = b"data: [DONE]"


class Dechunker:
    """Takes the chunks of one answer apart (RFC 9112, section 7.1), however the reads cut them."""

    def __init__(self) -> None:
        self._buffer = b""
        self._head = True
        self._left = 0  # bytes of the chunk under way
        self.complete = False

    def feed(self, data: bytes) -> bytes:
        """The body bytes in this read. Raises `LoadError` where the answer is not chunked."""
        self._buffer += data
        body = bytearray()
        while self._step(body):
            pass
        return bytes(body)

    def _step(self, body: bytearray) -> bool:
        if self._head:
            return self._skip_head()
        if self._left:
            piece = self._buffer[: self._left]
            self._buffer = self._buffer[len(piece) :]
            self._left -= len(piece)
            body += piece
            return bool(piece)
        line, found, rest = self._buffer.lstrip(b"\r\n").partition(b"\r\n")
        if not found or self.complete:
            return False
        self._buffer = rest
        self._left = int(line, 16)
        self.complete = self._left == 0
        return True

    def _skip_head(self) -> bool:
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return False
        if b"chunked" not in head.lower():
            raise LoadError(f"a stream is not chunked: {head!r}")
        self._buffer, self._head = rest, False
        return True


def arrivals(reads: Iterable[tuple[int, bytes]]) -> list[int]:
    """The read time of every event that is whole. Raises `LoadError`."""
    chunks, times, partial = Dechunker(), [], b""
    for at, data in reads:
        *events, partial = (partial + chunks.feed(data)).split(b"\n\n")
        times += [at for event in events if event.lstrip().startswith(EVENT)]
    return times


def delays(reads: Iterable[tuple[int, bytes]]) -> list[float]:
    """Seconds from the upstream's write to our read, of every event that tells when it was sent."""
    chunks, found, partial = Dechunker(), [], b""
    for at, data in reads:
        *events, partial = (partial + chunks.feed(data)).split(b"\n\n")
        found += [(at - int(sent[1])) / 1e9 for event in events if (sent := _SENT.search(event))]
    return found


def check(reads: Iterable[tuple[int, bytes]], events: int) -> None:
    """Raise `LoadError` unless this is a complete stream of so many events."""
    chunks = Dechunker()
    body = b"".join(chunks.feed(data) for _, data in reads)
    if not chunks.complete or body.count(EVENT) != events or DONE not in body:
        raise LoadError(
            f"a stream of {events} events came with {body.count(EVENT)}, "
            f"{'with' if DONE in body else 'without'} [DONE], ending {body[-200:]!r}"
        )
