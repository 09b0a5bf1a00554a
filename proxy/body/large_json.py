"""A large JSON body whose long strings are cut out as it comes: checked, and not copied.

What is inside a long string is an opaque span. Each is extracted, and a placeholder takes its place; the
text that is left is JSON of its own and small. The one parser reads it (`proxy/body/json_request.py`), and
the spans go back into what is sent on.

No two readers can differ over that. A span lies inside a string and is whole content by itself (RFC 8259,
section 7): it does not end the string, and leaves neither an escape nor a character half done. A placeholder
is like that too. So a reader who is inside a string before a span is inside the same string after it, with
the placeholder as with the span. Where that is not so, a placeholder stands where it does not fit, and the
body is read as a whole, as small ones are.
"""

import re
import secrets
from collections.abc import Iterator
from typing import Any, Final

import msgspec

Pieces = tuple[bytes | memoryview, ...]  # of one text, in their order

BLOCK: Final = 64 * 1024  # bytes that are looked at in one go: fractions of a millisecond
LEAST: Final = 4 * 1024  # bytes that are worth extracting
MAX_QUOTES: Final = 64  # in one block: with more of them its strings are short
KEPT: Final = 64  # bytes of the beginning of a string that stay: `data:` is read there
_EDGE: Final = 256  # bytes in which a place to cut is looked for

# Behind five bytes without a backslash no escape is half done; then neither a character nor a pair may be.
_CUT: Final = re.compile(rb"[^\\]{5}(?![\x80-\xbf]|\\u[dD][c-fC-F])")
# All that JSON has outside of strings: numbers, words and what is between them.
_BARE: Final = re.compile(rb"[-+.0-9eEaflnrstu,:\s\[\]{}]{64}")

_text: Final = msgspec.json.Decoder(str).decode


class LargeBody:
    """One body. Its length is that of all that was added; `values` is how many it has at most."""

    def __init__(self) -> None:
        self.values = 0  # but for the last 64 KiB
        self._placeholder = (
            b"x" + secrets.token_hex(16).encode()
        )  # drawn anew, so that no caller can write it
        self._parts: list[bytes | memoryview] = []  # in their order; the views are the spans
        self._fresh: list[bytes] = []  # not looked at yet
        self._fresh_size = 0
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, part: bytes) -> None:
        """Take the next bytes of the body."""
        self._size += len(part)
        self._fresh.append(part)
        self._fresh_size += len(part)
        if self._fresh_size >= BLOCK:
            self._look()

    def whole(self) -> bytes:
        """The body as it came."""
        return b"".join((*self._parts, *self._fresh))

    def text(self) -> bytes | None:
        """The body with placeholders for its spans; `None` if nothing was extracted."""
        if not self._extracted:
            return None
        parts = (self._placeholder if isinstance(part, memoryview) else part for part in self._parts)
        return b"".join((*parts, *self._fresh))

    def has_placeholder(self, json: bytes) -> bool:
        """Whether a placeholder is in this text."""
        return self._placeholder in json

    def names_have_placeholder(self, body: Any) -> bool:
        """Whether a placeholder is in the name of a key: which names are the same cannot be seen then."""
        placeholder, values = self._placeholder.decode(), [body]
        while values:
            value = values.pop()
            if isinstance(value, dict):
                if any(placeholder in name for name in value):
                    return True
                values += value.values()
            elif isinstance(value, list):
                values += value
        return False

    def restored(self, json: bytes) -> Pieces | None:
        """Compact JSON, in the order of the body, with the spans in place of their placeholders.

        `None` unless all of it is there.
        """
        between = json.split(self._placeholder)
        if len(between) != len(self._extracted) + 1:
            return None
        pieces: list[bytes | memoryview] = [between[0]]
        for span, after in zip(self._extracted, between[1:], strict=True):
            pieces += (span, after)
        return tuple(pieces)

    @property
    def _extracted(self) -> list[memoryview]:
        return [part for part in self._parts if isinstance(part, memoryview)]

    def _look(self) -> None:
        block = b"".join(self._fresh)  # no copy where it came in one piece
        self._fresh.clear()
        self._fresh_size = done = 0
        for start, end in _spans(block):
            # What is seen keeps all of its bytes: little of them is better copied.
            most = 2 * (end - start) > len(block)
            inside = memoryview(block)[start:end] if most else memoryview(block[start:end])
            self._leave(block[done:start])
            self._parts.append(inside)
            done = end
        self._leave(block[done:])

    def _leave(self, part: bytes) -> None:
        self._parts.append(part)
        # Each value but the first follows one of these.
        self.values += len(part) - len(part.translate(None, b"[{,"))


def _spans(block: bytes) -> Iterator[tuple[int, int]]:
    """What may lie inside of strings, by start and end: all of the block, or between two of its quotes."""
    if inside := _span(block, 0, len(block)):
        yield inside
        return
    if block.count(b'"') > MAX_QUOTES:
        return
    start = 0
    while start < len(block):
        end = block.find(b'"', start)
        end = len(block) if end < 0 else end
        if inside := _span(block, start, end):
            yield inside
        start = end + 1


def _span(block: bytes, start: int, end: int) -> tuple[int, int] | None:
    if end - start < KEPT + LEAST + 2 * _EDGE:
        return None
    first = _CUT.search(block, start + KEPT, start + KEPT + _EDGE)
    last = _CUT.search(block, end - _EDGE, end)
    if first is None or last is None or _BARE.match(block, first.end()):
        return None
    try:
        _text(b"".join((b'"', memoryview(block)[first.end() : last.end()], b'"')))
    except ValueError:  # the parser will say what is odd, if anything
        return None
    return first.end(), last.end()
