"""How many tokens an answer cost, read from its bytes while they pass.

Engines tell in the body of a plain answer, and in the last events of a stream. Neither is parsed event
by event: of a stream only what may be about usage is kept, and looked into once.
"""

from collections.abc import Iterator
from typing import Final

import msgspec

from hubgate.proxy.upstream.schemas import Body, Chunk, Metered, Usage

MAX_PLAIN: Final = 4 * 1024 * 1024  # bytes of a plain answer, or of one event, that are kept
TAIL: Final = (
    8 * 1024
)  # bytes of a stream that are kept, more if its last event is larger; and of a vast answer

_read_body: Final = msgspec.json.Decoder(Body).decode
_read_usage: Final = msgspec.json.Decoder(Metered).decode
_read_chunk: Final = msgspec.json.Decoder(Chunk).decode
_END: Final = b"\n\n"
_MEMBER: Final = b'"usage":'
_USAGE: Final = b'"usage"'  # without which an event is not about usage
# How an event ends whose last member are its choices. vLLM writes the usage behind them, if at all
# (vllm/entrypoints/openai/chat_completion/protocol.py, `ChatCompletionStreamResponse`).
_CHOICES: Final = b"}]}\n\n"


class UsageMeter:
    """Keeps as much of an answer as its usage can stand in."""

    def __init__(self, *, streaming: bool) -> None:
        self.events = 0  # of a stream, each of which is a token at least
        self._streaming = streaming
        self._whole = True  # no event has begun that has not ended
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, data: bytes) -> bool:
        """Take the next bytes; whether they may be about usage. Whole events that are not are not kept."""
        if self._streaming:
            whole = data.endswith(_END)
            # Almost always it is one event of one line. To partition is the fastest way to look:
            # `find`, `count` and `in` read their arguments, or the text, for longer.
            one = whole and len(data.partition(b"\n")[2]) == 1
            self.events += 1 if one else data.count(_END)
            told = not (one and data.endswith(_CHOICES)) and data.rpartition(_USAGE)[1]
            if whole and self._whole and not told:
                return False
            self._whole = whole
        self._parts.append(data)
        self._size += len(data)
        if self._size > (TAIL if self._streaming else MAX_PLAIN):
            self._shorten()
        return True

    def usage(self) -> tuple[int, int] | None:
        """What the answer cost, as far as its engine said so: tokens of the prompt, and of the completion."""
        found = self._told(b"".join(self._parts))
        if found is None:
            return None
        return found.prompt_tokens or found.input_tokens, found.completion_tokens or found.output_tokens

    def _told(self, data: bytes) -> Usage | None:
        if not self._streaming:
            return _decode(data)
        return next(filter(None, map(_decode, reversed(_events(data)))), None)

    def _shorten(self) -> None:
        data = b"".join(self._parts)
        if not self._streaming:  # what is left is cut, and read if the usage stands late in it
            self._parts = [data[-TAIL:]]
            self._size = TAIL
            return
        # The last whole event and the one before it: `[DONE]` says nothing.
        start = data.rfind(_END, 0, max(0, data.rfind(_END, 0, max(0, data.rfind(_END)))))
        data = data[start + len(_END) :] if start >= 0 else data
        if len(data) > MAX_PLAIN:
            data = b""
        self._parts = [data]
        # Looked at again only when it has doubled, so that a large event is not copied at each piece.
        self._size = min(0, TAIL - 2 * len(data))

    @property
    def held(self) -> int:
        """Bytes that are kept."""
        return sum(map(len, self._parts))


class UsageEventFilter:
    """Takes the event that tells the usage out of a stream whose caller did not ask for it.

    The engine is always asked for it (`stream_options.include_usage`), because limits and bills rest
    on it. All other bytes pass as they are.
    """

    def __init__(self) -> None:
        self._rest = b""  # of an event that has not ended yet

    def pass_on(self, data: bytes) -> bytes:
        """The bytes that the caller gets now."""
        data = self._rest + data
        end = data.rfind(_END) + len(_END)
        if end < len(_END):
            return self._hold(data)
        whole = data[:end]
        kept = self._hold(data[end:]) if end < len(data) else self._hold(b"")
        if _USAGE in whole:
            whole = b"".join(event for event in _split(whole) if not _only_usage(event))
        return whole + kept

    def rest(self) -> bytes:
        """What is left when the stream has ended, once."""
        rest, self._rest = self._rest, b""
        return rest

    def _hold(self, data: bytes) -> bytes:
        if len(data) > TAIL:  # an event of usage is small
            self._rest = b""
            return data
        self._rest = data
        return b""


def _split(data: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(data):
        end = data.find(_END, start) + len(_END)
        end = end if end >= len(_END) else len(data)
        yield data[start:end]
        start = end


def _only_usage(event: bytes) -> bool:
    for line in event.split(b"\n"):
        if line.startswith(b"data:"):
            try:
                found = _read_chunk(line[5:])
            except (msgspec.DecodeError, UnicodeDecodeError):
                return False
            return found.choices == [] and found.usage is not None
    return False


def _events(data: bytes) -> list[bytes]:
    return [line[5:] for line in data.split(b"\n") if line.startswith(b"data:")]


def _decode(data: bytes) -> Usage | None:
    return _last_member(data) or _whole(data)


def _last_member(data: bytes) -> Usage | None:
    """The usage of a body that tells it late, as engines do, read without what stands before it.

    What stands deeper than in the body itself leaves a brace too many, and a quote in a text is escaped:
    so it is the body's own, or it cannot be decoded.
    """
    start = data.rfind(_MEMBER)
    if start < 1 or data[start - 1] == 0x5C:  # a backslash
        return None
    try:
        return _read_usage(b"{" + data[start:]).usage
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _whole(data: bytes) -> Usage | None:
    try:
        body = _read_body(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if body.usage is not None:
        return body.usage
    if body.response is not None:
        return body.response.usage
    counted = body.count if body.count is not None else body.input_tokens
    return None if counted is None else Usage(prompt_tokens=counted)
