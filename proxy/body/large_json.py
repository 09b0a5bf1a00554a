"""A scanner of JSON as it comes: bounds what a parser would have to do, and cuts out what none need read.

It keeps to strings and brackets, and knows of each byte whether a reader would be inside a string there.
Depth, length of numbers and number of values are bounded while the body comes, before anything recurses
over it or converts it. Of a long string, and of a long list of whole numbers, the middle is an opaque span:
it is checked by itself, extracted, and a placeholder takes its place. What is left is JSON of its own, and
small. The one parser reads it (`proxy/body/json_request.py`), and the spans go back into what is sent on.

No two readers can differ over that. A span of a string is whole content by itself (RFC 8259, section 7): it
does not end the string, and leaves neither an escape nor a character half done. A span of numbers is whole
elements between two commas, and not empty. The placeholders are like that too. So a reader is in the same
state after a span, with the placeholder as with the span. Where the scanner's own state is wrong the text
is no JSON, by a byte that stands before and that the parser will see.
"""

import re
import secrets
from collections.abc import Container
from typing import Any, Final

import msgspec

from hubgate.proxy.body import strict_json
from hubgate.proxy.errors import Denied
from hubgate.proxy.fields import superfluous
from hubgate.proxy.fields.shapes import Token
from hubgate.proxy.fields.superfluous import Found
from hubgate.proxy.frozen_struct import FrozenStruct
from hubgate.proxy.http.request import PIECE

Pieces = tuple[bytes | memoryview, ...]  # of one text, in their order

MAX_DEPTH: Final = 100  # levels; Python's own limit shows at 970, and no request comes near
MAX_NUMBER: Final = 100  # characters of a number; 64 bits have 20, and no one writes more than 40
LONG_NUMBER: Final = 25  # more than those of any double as Python and JavaScript write it
MAX_ODD_NUMBERS: Final = 10_000  # long ones, or with an exponent: each takes as long to convert as ten others
FEW_EXPONENTS: Final = 100  # that any parser may convert
# What is left for the parser. Until it is done nothing else is served: some 10 ms at most.
MAX_VALUES: Final = 50_000
MAX_LEFT: Final = 2 * 1024 * 1024  # bytes


class Sizes(FrozenStruct):
    """Where the scanner cuts, in bytes."""

    block: int = 64 * 1024  # what is looked at in one go: a millisecond, ten at worst
    kept: int = 64  # of the beginning of a string: `data:` is read there
    text: int = 256  # of a string that are worth extracting
    numbers: int = 64  # of a list of numbers that are: a dozen
    edge: int = 32  # in which a place to cut a string is looked for


SIZES: Final = Sizes()

# Up to a quote that ends the string, or a backslash whose escape is still to come.
_IN_STRING: Final = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
# Behind five bytes without a backslash no escape is half done; then neither a character nor a pair may be.
_CUT: Final = re.compile(rb"[^\\]{5}(?![\x80-\xbf]|\\u[dD][c-fC-F])")
_SPACE: Final = b" \t\r\n"
_NUMERIC: Final = bytes(ord("0") if byte in b"0123456789+-.eE" else byte for byte in range(256))
_TOO_LONG: Final = b"0" * (MAX_NUMBER + 1)
_LONG: Final = b"0" * LONG_NUMBER
SHAPES: Final = bytes(  # every digit to 0, and one letter for exponents
    ord("0") if byte in b"0123456789" else ord("e") if byte == ord("E") else byte for byte in range(256)
)
EXPONENT: Final = b"0e"
_NOT_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in b"[]{}")

_text: Final = msgspec.json.Decoder(str).decode
_numbers: Final = msgspec.json.Decoder(list[Token]).decode
_encode: Final = msgspec.json.Encoder().encode


class LargeBody:
    """One body. Its length is that of all that was added."""

    def __init__(self, sizes: Sizes = SIZES) -> None:
        self.scanned = False  # whether some of it was looked at: what is smaller than a block is not
        self.has_cut_name = False  # whether a span lies in the name of a key
        self.spans: list[memoryview] = []  # in their order
        self._span_values: list[int] = []  # how many numbers are in each, none in one of a string
        self._left_values: list[int] = []  # the same of those that `without` left
        # Drawn anew, so that no caller can write them; one is content of a string, the other an element.
        self._text_mark = b"x" + secrets.token_hex(8).encode()
        self._number_mark = str(secrets.randbelow(9 * 10**17) + 10**17).encode()
        self._sizes = sizes
        self._block = sizes.block
        self._run_of_numbers = re.compile(rb"[0-9, \t\r\n]{%d,}" % sizes.numbers)
        self._size = 0
        self._left: list[bytes] = []  # the text with a mark for each span
        self._left_size = 0
        self._fresh: list[bytes] = []  # not looked at yet
        self._fresh_size = 0
        # The scanner's state between two blocks.
        self._in_string = False
        self._escaped = False  # the next byte belongs to an escape
        self._cut = False  # there is a span in the string that is open, or was the last
        self._depth = 0
        self._digits = 0  # characters of a number that the last block ended with
        self._values = 0
        self._strings = 0
        self._odd_numbers = 0

    def __len__(self) -> int:
        return self._size

    def add(self, part: bytes) -> Denied | None:
        """Take the next bytes of the body. What is returned is why nothing more is worth reading."""
        self._size += len(part)
        room = self._block - self._fresh_size
        while len(part) >= room:
            # Itself, where it fits: mypyc copies a slice also where that is all there is.
            self._fresh.append(part if len(part) == room else part[:room])
            part, room = part[room:], self._block
            if refused := self._look():
                self._fresh.append(part)
                return refused
        if self._fresh and len(self._fresh[-1]) < PIECE:
            self._fresh[-1] += part
        elif part:
            self._fresh.append(part)
        self._fresh_size += len(part)
        return None

    def end(self) -> Denied | None:
        """Say that this was all; as `add`."""
        return self._look() if self.scanned and self._fresh else None

    @property
    def has_odd_numbers(self) -> bool:
        """Whether many numbers take long to convert."""
        return self._odd_numbers > FEW_EXPONENTS

    @property
    def parsable(self) -> bool:
        """Whether the body may be parsed as a whole."""
        return self._size <= MAX_LEFT and self._values + sum(self._span_values) <= MAX_VALUES

    def whole(self) -> bytes:
        """The body as it came."""
        spans = iter(self.spans)
        marks = (self._text_mark, self._number_mark)
        return b"".join([*(next(spans) if part in marks else part for part in self._left), *self._fresh])

    def text(self) -> bytes:
        """The body with placeholders for its spans."""
        return b"".join(self._left)

    def has_text_mark(self, json: bytes) -> bool:
        """Whether a placeholder for some of a string is in this text."""
        return self._text_mark in json

    def has_number_mark(self, json: bytes) -> bool:
        """Whether a placeholder for numbers is in this text."""
        return self._number_mark in json

    def restored(self, json: bytes, spans: list[memoryview]) -> Pieces | None:
        """Compact JSON, in the order of the body, with the spans in place of their placeholders.

        `None` unless all of it is there.
        """
        between = self._between_marks(json)
        if len(between) != len(spans) + 1:
            return None
        pieces: list[bytes | memoryview] = [between[0]]
        for span, after in zip(spans, between[1:], strict=True):
            pieces += (span, after)
        return tuple(pieces)

    def without(self, body: dict[str, Any], found: Found) -> list[memoryview]:
        """The spans that are left once what was `found` is removed from the body, which comes next."""
        spans = [self._count_marks(part) for part in superfluous.encoded(found)]
        if not any(spans):
            return self.spans
        # A mark says not which span it is for: each of those that go is made another one, in its place.
        gone = b"x" + secrets.token_hex(8).encode()
        for (container, key), count in zip(found, spans, strict=True):
            container[key] = [gone.decode()] * count
        kept: list[int] = []
        index = 0
        for part in _encode(body).split(gone):  # a hundredth of the time of one pattern for all marks
            marks = self._count_marks(part)
            kept += range(index, index + marks)
            index += marks + 1
        if index != len(self.spans) + 1:
            raise RuntimeError("a span of a body was lost")
        self._left_values = [self._span_values[one] for one in kept]
        return [self.spans[one] for one in kept]

    def restore_fields(
        self, body: dict[str, Any], opaque: Container[str], left: list[memoryview]
    ) -> list[memoryview] | None:
        """Put the spans that are `left` back into the fields that are not `opaque`; gives those of the rest.

        `None` if they are too large to be parsed.
        """
        rest: list[memoryview] = []
        start = 0
        size, values = self._left_size, self._values
        counts = self._span_values if left is self.spans else self._left_values
        for name, value in body.items():
            json = _encode(value)
            spans = left[start : start + len(self._between_marks(json)) - 1]
            if name not in opaque:
                values += sum(counts[start : start + len(spans)])
            start += len(spans)
            if name in opaque or not spans:
                rest += spans
                continue
            size += sum([len(span) for span in spans])
            pieces = self.restored(json, spans)
            if size > MAX_LEFT or values > MAX_VALUES or pieces is None:
                return None
            body[name] = strict_json.decode(b"".join(pieces).decode(), long_numbers=False)
        return rest

    def _count_marks(self, json: bytes) -> int:
        return json.count(self._text_mark) + json.count(self._number_mark)

    def _between_marks(self, json: bytes) -> list[bytes]:
        texts = json.split(self._text_mark)  # a tenth of the time that both take as one pattern
        if not any(self._span_values):
            return texts
        return [part for text in texts for part in text.split(self._number_mark)]

    def _look(self) -> Denied | None:
        block = b"".join(self._fresh)  # no copy where it came in one piece
        self._fresh.clear()
        self._fresh_size = 0
        self.scanned = True
        outside = self._walk(block)
        if outside is None:
            return not_json()
        opened = outside.count(b"[") + outside.count(b"{")
        if self._depth + opened > MAX_DEPTH and self._deepest(outside) > MAX_DEPTH:
            return _denied(f"The body may be nested {MAX_DEPTH} levels deep at most")
        self._depth += opened - outside.count(b"]") - outside.count(b"}")
        numeric = b"0" * self._digits + outside.translate(_NUMERIC)
        if _TOO_LONG in numeric:
            return _denied(f"A number in the body may have {MAX_NUMBER} characters at most")
        self._digits = len(numeric) - len(numeric.rstrip(b"0"))
        self._odd_numbers += numeric.count(_LONG) + outside.translate(SHAPES).count(EXPONENT)
        if self._odd_numbers > MAX_ODD_NUMBERS:
            most = f"{MAX_ODD_NUMBERS} numbers with an exponent, or of {LONG_NUMBER} characters or more"
            return _denied(f"The body may hold {most} at most", large=True)
        self._values += opened + outside.count(b",")  # each value but the first follows one of these
        if self._values > MAX_VALUES or self._strings > 2 * MAX_VALUES:  # and may have a name
            most = f"The body may hold {MAX_VALUES} values at most, of a long list of token ids only a few"
            return _denied(most, large=True)
        if self._left_size > MAX_LEFT:
            most = f"The body may hold {MAX_LEFT} bytes besides its long texts and lists of token ids"
            return _denied(most, large=True)
        return None

    def _walk(self, block: bytes) -> bytes | None:
        """Cut the block's spans out, and give what stands outside of strings, a quote for each of those.

        `None` where nothing stands between two strings: that is no JSON, and would take longest.
        """
        outside: list[bytes] = [b""] if self._in_string else []
        size = len(block)
        at = 1 if self._escaped else 0
        self._escaped = False
        done = 0  # up to where it is in `_left`
        while at < size:
            if self._in_string:
                end = self._end_of_string(block, at)
                done = self._cut_text(block, at, end, done)
                if end < size:
                    self._in_string = False
                    self._strings += 1
                    if end + 1 == size:
                        outside.append(b"")
            else:
                end = block.find(b'"', at)
                if end < 0:
                    end = size
                if end == at and at > 0:
                    self._leave(block[done:])
                    return None
                done = self._cut_numbers(block, at, end, done, outside)
                self._in_string = end < size
            at = end + 1
        if self._in_string:
            outside.append(b"")
        self._leave(block[done:])
        return b'"'.join(outside)

    def _end_of_string(self, block: bytes, at: int) -> int:
        """Where the quote is that ends the string; the block's size if it goes on."""
        size = len(block)
        end = block.find(b'"', at)
        if end < 0:
            end = size
        if block.find(b"\\", at, end) < 0:
            return end
        found = _IN_STRING.match(block, at)
        assert found is not None  # noqa: S101 - it matches nothing, too
        end = found.end()
        if end < size and block[end] == 0x5C:  # a backslash is the block's last byte
            self._escaped = True
            return size
        return end

    def _cut_text(self, block: bytes, at: int, end: int, done: int) -> int:
        sizes = self._sizes
        if end - at < sizes.kept + sizes.text + 2 * sizes.edge:
            return done
        begin = at + sizes.kept
        first = _CUT.search(block, begin, begin + sizes.edge)
        last = _CUT.search(block, end - sizes.edge, end)
        if first is None or last is None:
            return done
        start, stop = first.end(), last.end()
        try:
            _text(b"".join((b'"', memoryview(block)[start:stop], b'"')))
        except ValueError:  # the parser will say what is odd, if anything
            return done
        self._cut = True
        return self._extract(block, start, stop, done, self._text_mark, values=0)

    def _cut_numbers(self, block: bytes, at: int, end: int, done: int, outside: list[bytes]) -> int:
        """Cut the numbers out of what stands outside of strings, and add what is left of it to `outside`."""
        if self._cut and (follows := block[at:end].lstrip(_SPACE)):
            self.has_cut_name = self.has_cut_name or follows.startswith(b":")
            self._cut = False
        if end - at < self._sizes.numbers:
            outside.append(block[at:end])
            return done
        seen = at
        for run in self._run_of_numbers.finditer(block, at, end):
            start = block.find(b",", run.start(), run.end()) + 1
            stop = block.rfind(b",", start, run.end())
            if start == 0 or stop - start < self._sizes.numbers // 2:
                continue
            try:
                count = len(_numbers(b"[%b]" % block[start:stop]))
            except ValueError:
                continue
            if count == 0:
                continue
            outside.append(block[seen:start])
            seen = stop
            done = self._extract(block, start, stop, done, self._number_mark, values=count)
        outside.append(block[seen:end])
        return done

    def _extract(self, block: bytes, start: int, stop: int, done: int, mark: bytes, *, values: int) -> int:
        self._leave(block[done:start])
        self._leave(mark)
        self._span_values.append(values)
        # What is seen keeps all of its bytes: little of them is better copied.
        most = 2 * (stop - start) > len(block)
        self.spans.append(memoryview(block)[start:stop] if most else memoryview(block[start:stop]))
        return stop

    def _leave(self, part: bytes) -> None:
        self._left.append(part)
        self._left_size += len(part)

    def _deepest(self, outside: bytes) -> int:
        depth = deepest = self._depth
        for byte in outside.translate(None, _NOT_BRACKETS):
            if byte == 0x5B or byte == 0x7B:  # noqa: PLR1714 - a set would be made each time
                depth += 1
                deepest = max(deepest, depth)
            else:
                depth -= 1
        return deepest


def refusal(raw: bytes, *, odd_numbers: bool) -> Denied | None:
    """Why a small body is not parsed, if so. `odd_numbers`: some may be too long, or too many too odd."""
    if not odd_numbers and raw.count(b"[") + raw.count(b"{") <= MAX_DEPTH:
        return None
    body = LargeBody()
    body.scanned = True
    return body.add(raw) or body.end()


def not_json() -> Denied:
    """The refusal of bytes that no parser takes."""
    return Denied("invalid_request", "The body is not JSON (RFC 8259, UTF-8).")


def _denied(message: str, *, large: bool = False) -> Denied:
    return Denied("request_too_large" if large else "invalid_request", f"{message}.")
