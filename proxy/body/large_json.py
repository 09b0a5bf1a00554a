"""A large JSON body as it comes: what lies inside its long strings is set apart, checked and not copied.

What is left, with a mark for each stretch that was taken out, is a JSON text of its own and small: the one
parser reads it (`proxy/body/json_request.py`), and the stretches go back into what is sent on.

No two readers can differ over that. A stretch is whole content of a string by itself (RFC 8259, section 7):
it neither ends the string nor leaves an escape or a character half done, and a mark does not either. So
whoever is inside a string before one is inside the same string behind it, with the mark as with the
stretch. And whoever is not, or in the middle of an escape or a character, finds a mark that fits nowhere:
then the body is read as a whole, as small ones are.
"""

import re
import secrets
from collections.abc import Iterator
from typing import Any, Final

import msgspec

Pieces = tuple[bytes | memoryview, ...]  # of one text, in their order

STRETCH: Final = 64 * 1024  # bytes that are looked at in one go: fractions of a millisecond
LEAST: Final = 4 * 1024  # bytes that are worth setting apart
MAX_QUOTES: Final = 64  # in one stretch: with more of them its strings are short
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
        self._mark = b"x" + secrets.token_hex(16).encode()  # drawn anew, so that no caller can write it
        self._parts: list[bytes | memoryview] = []  # in their order; the views are what was set apart
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
        if self._fresh_size >= STRETCH:
            self._look()

    def whole(self) -> bytes:
        """The body as it came."""
        return b"".join((*self._parts, *self._fresh))

    def text(self) -> bytes | None:
        """The body with its marks; `None` if nothing was set apart."""
        if not self._apart:
            return None
        parts = (self._mark if isinstance(part, memoryview) else part for part in self._parts)
        return b"".join((*parts, *self._fresh))

    def marks(self, json: bytes) -> bool:
        """Whether a mark stands in this."""
        return self._mark in json

    def names(self, body: Any) -> bool:
        """Whether a mark stands in the name of a key: which of these are the same cannot be seen then."""
        mark, values = self._mark.decode(), [body]
        while values:
            value = values.pop()
            if isinstance(value, dict):
                if any(mark in name for name in value):
                    return True
                values += value.values()
            elif isinstance(value, list):
                values += value
        return False

    def restored(self, json: bytes) -> Pieces | None:
        """Compact JSON, in the order of the body, with what was set apart in place of the marks.

        `None` unless all of it is there.
        """
        between = json.split(self._mark)
        if len(between) != len(self._apart) + 1:
            return None
        pieces: list[bytes | memoryview] = [between[0]]
        for apart, behind in zip(self._apart, between[1:], strict=True):
            pieces += (apart, behind)
        return tuple(pieces)

    @property
    def _apart(self) -> list[memoryview]:
        return [part for part in self._parts if isinstance(part, memoryview)]

    def _look(self) -> None:
        stretch = b"".join(self._fresh)  # no copy where it came in one piece
        self._fresh.clear()
        self._fresh_size = done = 0
        for start, end in _insides(stretch):
            # What is seen keeps all of its bytes: little of them is better copied.
            most = 2 * (end - start) > len(stretch)
            inside = memoryview(stretch)[start:end] if most else memoryview(stretch[start:end])
            self._leave(stretch[done:start])
            self._parts.append(inside)
            done = end
        self._leave(stretch[done:])

    def _leave(self, part: bytes) -> None:
        self._parts.append(part)
        # Each value but the first follows one of these.
        self.values += len(part) - len(part.translate(None, b"[{,"))


def _insides(stretch: bytes) -> Iterator[tuple[int, int]]:
    """What may lie inside of strings, by start and end: all of the stretch, or between two of its quotes."""
    if inside := _inside(stretch, 0, len(stretch)):
        yield inside
        return
    if stretch.count(b'"') > MAX_QUOTES:
        return
    start = 0
    while start < len(stretch):
        end = stretch.find(b'"', start)
        end = len(stretch) if end < 0 else end
        if inside := _inside(stretch, start, end):
            yield inside
        start = end + 1


def _inside(stretch: bytes, start: int, end: int) -> tuple[int, int] | None:
    if end - start < KEPT + LEAST + 2 * _EDGE:
        return None
    first = _CUT.search(stretch, start + KEPT, start + KEPT + _EDGE)
    last = _CUT.search(stretch, end - _EDGE, end)
    if first is None or last is None or _BARE.match(stretch, first.end()):
        return None
    try:
        _text(b"".join((b'"', memoryview(stretch)[first.end() : last.end()], b'"')))
    except ValueError:  # the parser will say what is odd, if anything
        return None
    return first.end(), last.end()
