"""What a `RawEngine` can be told to say: completions, streams, refusals, deaths, and any bytes at all."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tests.fakes.engine import Answer, Connection, Received

DONE = b"data: [DONE]\n\n"


def head(status: int, headers: Sequence[tuple[str, str]] = ()) -> bytes:
    """A status line and headers."""
    lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode("latin-1")


def whole(status: int, body: bytes, content_type: str = "application/json") -> bytes:
    """A complete answer with its length."""
    return head(status, [("Content-Type", content_type), ("Content-Length", str(len(body)))]) + body


def chunk(data: bytes) -> bytes:
    """One chunk (RFC 9112, section 7.1); empty data is the last one."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def raw(*pieces: bytes, close: bool = False) -> Answer:
    """Exactly these bytes, in as many writes; then close if told so."""

    async def answer(_: Received, connection: Connection) -> None:
        for piece in pieces:
            connection.send(piece)
            await asyncio.sleep(0)  # a write of its own, and mostly a segment
        if close:
            connection.close()

    return answer


def completion(text: str = "hi", usage: tuple[int, int] = (3, 2)) -> Answer:
    """A plain JSON completion under the name that was asked for, which fits both endpoints."""

    async def answer(received: Received, connection: Connection) -> None:
        connection.send(whole(200, msgspec.json.encode(completed(received.json()["model"], text, usage))))

    return answer


def completed(model: str, text: str = "hi", usage: tuple[int, int] = (3, 2)) -> dict[str, Any]:
    """The body of a completion, as OpenAI's API gives it."""
    choice = {
        "index": 0,
        "text": text,
        "message": {"role": "assistant", "content": text},
        "finish_reason": "stop",
        "logprobs": None,
    }
    counts = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    kind = {"id": "c-1", "object": "chat.completion", "created": 1, "model": model}
    return {**kind, "choices": [choice], "usage": counts}


def refusal(status: int, message: str = "no") -> Answer:
    """An error as vLLM writes it."""
    error = {"message": message, "type": "BadRequestError", "param": None, "code": status}
    return raw(whole(status, msgspec.json.encode({"error": error})))


def misdirected() -> Answer:
    """The engine does not hold the model: 421, and the connection is closed, as the plugin does."""
    body = b'{"error":{"message":"this engine does not hold the model"}}'
    closing = [("Content-Length", str(len(body))), ("Connection", "close")]
    return raw(head(421, closing) + body, close=True)


def dies() -> Answer:
    """The process ends before it answers anything."""
    return raw(close=True)


def silent() -> Answer:
    """Nothing ever comes."""

    async def answer(_: Received, connection: Connection) -> None:
        await connection.left.wait()

    return answer


def event(data: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + msgspec.json.encode(data) + b"\n\n"


@dataclass(slots=True)
class Stream:
    """A stream of `count` events that goes on when `step` or `finish` is called; an `Answer` itself.

    `sent` holds every byte of the body; with `die_after` the process ends after so many events.
    """

    count: int = 3
    die_after: int | None = None
    usage: bool = False
    sent: bytearray = field(default_factory=bytearray)
    _permits: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))

    def step(self, events: int = 1) -> None:
        """Let the next events go."""
        for _ in range(events):
            self._permits.release()

    def finish(self) -> "Stream":
        """Let everything go, the end too."""
        self.step(self.count + 1)
        return self

    async def __call__(self, received: Received, connection: Connection) -> None:
        streaming = [("Content-Type", "text/event-stream; charset=utf-8"), ("Transfer-Encoding", "chunked")]
        connection.send(head(200, streaming))
        for index in range(self.count):
            await self._permits.acquire()
            if index == self.die_after:
                connection.close()
                return
            self._send(connection, event(self._delta(index, received.json()["model"])))
        await self._permits.acquire()
        if self.usage:
            usage = {"prompt_tokens": 3, "completion_tokens": self.count, "total_tokens": 3 + self.count}
            self._send(connection, event({**self._delta(0, received.json()["model"]), "usage": usage}))
        self._send(connection, DONE)
        connection.send(chunk(b""))

    def _send(self, connection: Connection, data: bytes) -> None:
        self.sent += data
        connection.send(chunk(data))

    @staticmethod
    def _delta(index: int, model: str) -> dict[str, Any]:
        choice = {"index": 0, "text": f"t{index}", "delta": {"content": f"t{index}"}, "finish_reason": None}
        kind = {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": model}
        return {**kind, "choices": [choice]}
