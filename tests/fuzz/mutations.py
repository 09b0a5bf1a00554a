"""What is sent on one connection: good requests, most of them changed in a few places.

An input is made by its seed and number alone, so that a report that names both can be run again.
"""

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Final, Literal

from tests.fuzz import words
from tests.fuzz.bodies import changed, spelling
from tests.fuzz.damage import damaged
from tests.fuzz.good import Draft, draft

# Asks to close, behind whatever is open: twice, should the first one be taken for a body.
_LAST: Final = b"\r\n\r\n" + b"GET /health HTTP/1.1\r\nHost: hubgate\r\nConnection: close\r\n\r\n" * 2

GONE: Final = "gone-away-"  # what the ids of requests begin with whose caller leaves

Edit = Callable[[Random, Draft], None]


@dataclass(frozen=True, slots=True)
class Input:
    """What is written to one connection, piece by piece."""

    seed: int
    number: int
    pieces: tuple[bytes, ...]
    how: Literal["at once", "in turns", "and leaves"]  # in turns: waits for something before the next piece

    @property
    def sent(self) -> bytes:
        """All of it."""
        return b"".join(self.pieces)


def made(seed: int, number: int) -> Input:
    """One input: the same for the same seed and number."""
    rng = Random(f"{seed}/{number}")  # noqa: S311 - what is wanted is the same again
    name = f"fuzz-{seed}-{number}"
    how = rng.random()
    if how < 0.12:
        return Input(seed, number, tuple(_repeated(rng, name)), "in turns")
    if how < 0.17:
        return Input(seed, number, _left(rng, f"{GONE}{number}"), "and leaves")
    data = bytearray()
    count = rng.choices((1, 2, 4, 8, 12, 40), (16, 20, 26, 22, 15, 1))[0]
    for index in range(count):
        one = draft(rng, f"{name}-{index}")
        kind = rng.random()
        if kind < 0.55:
            _change_body(rng, one)
        if kind > 0.45 and rng.random() < 0.6:
            _change_head(rng, one)
        data += _broken(rng, _written(rng, one), last=index == count - 1)
    return Input(seed, number, _split(rng, bytes(data) + _LAST), "at once")


def _repeated(rng: Random, name: str) -> Iterator[bytes]:
    """Requests that come one by one with the same head, as those of an SDK do, until one is changed in it."""
    one = draft(rng, name)
    if rng.random() < 0.3:
        _change_head(rng, one)
    fields, body = one.fields, one.body
    count = rng.randint(3, 8)
    for index in range(count):
        one.fields, one.body = copy.deepcopy(fields), body
        if rng.random() < 0.5:
            _change_body(rng, one)
        yield _broken(rng, _written(rng, one, chunks=0), last=index == count - 1)
    yield _LAST


def _left(rng: Random, name: str) -> tuple[bytes, ...]:
    """Requests with good heads, up to any byte of them: what becomes of them then only their ids tell."""
    data = bytearray()
    for index in range(rng.randint(1, 6)):
        one = draft(rng, f"{name}-{index}")
        if rng.random() < 0.5:
            _change_body(rng, one)
        data += _written(rng, one)
    return _split(rng, bytes(data[: rng.randint(1, len(data))]))


def _split(rng: Random, data: bytes) -> tuple[bytes, ...]:
    """In one piece mostly; else cut anywhere, or into bytes around one place."""
    kind = rng.random()
    if kind < 0.7:
        return (data,)
    if kind < 0.97:
        cuts = sorted(rng.randrange(len(data)) for _ in range(rng.randint(1, 6)))
    else:
        start = rng.randrange(len(data))
        cuts = list(range(start, min(len(data), start + 100)))
    parts = zip([0, *cuts], [*cuts, len(data)], strict=True)
    return tuple(data[start:end] for start, end in parts if end > start)


def _broken(rng: Random, data: bytes, *, last: bool) -> bytes:
    """Perhaps with damage to its framing: it ends a connection, and those behind it would not be read."""
    return damaged(rng, data) if rng.random() < (0.5 if last else 0.01) else data


# One request, well framed whatever it says.


def _change_body(rng: Random, one: Draft) -> None:
    if one.fields is not None:
        one.body = changed(rng, one.fields)
        one.fields = None
    elif one.body:
        one.body = damaged(rng, one.body)


def _change_head(rng: Random, one: Draft) -> None:
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        rng.choices(*_EDITS)[0](rng, one)


def _written(rng: Random, one: Draft, chunks: float = 0.2) -> bytes:
    """Its bytes; `chunks` is the share of those whose body comes in chunks."""
    body = one.body if one.fields is None else json.dumps(one.fields, **spelling(rng)).encode()
    if body and rng.random() < chunks:
        return _head(one, b"Transfer-Encoding: chunked\r\n") + _chunked(rng, body)
    told = body or rng.random() < 0.1
    return _head(one, b"Content-Length: %d\r\n" % len(body) if told else b"") + body


def _head(one: Draft, framing: bytes) -> bytes:
    lines = b"".join(b"%b: %b\r\n" % header for header in one.headers)
    return b"%b %b %b\r\n%b%b\r\n" % (one.method, one.target, one.version, lines, framing)


def _chunked(rng: Random, body: bytes) -> bytes:
    """In chunks of any size, now and then with extensions, leading zeros and trailers."""
    data, start = bytearray(), 0
    most = max(1, len(body) // rng.choice((1, 2, 5, 40)))
    while start < len(body):
        piece = body[start : start + rng.randint(1, most)]
        start += len(piece)
        size = b"%x" % len(piece) if rng.random() < 0.9 else b"%08X" % len(piece)
        extension = rng.choice(words.EXTENSIONS) if rng.random() < 0.05 else b""
        data += b"%b%b\r\n%b\r\n" % (size, extension, piece)
    trailers = rng.choice(words.TRAILERS) if rng.random() < 0.1 else b""
    return bytes(data) + b"0\r\n" + trailers + b"\r\n"


# Headers and the request line.


def _add(rng: Random, one: Draft) -> None:
    one.headers.insert(rng.randint(0, len(one.headers)), (rng.choice(words.NAMES), rng.choice(words.VALUES)))


def _replace(rng: Random, one: Draft) -> None:
    at = rng.randrange(len(one.headers))
    one.headers[at] = (one.headers[at][0], rng.choice(words.VALUES))


def _rename(rng: Random, one: Draft) -> None:
    at = rng.randrange(len(one.headers))
    name, value = one.headers[at]
    one.headers[at] = (rng.choice((name.upper(), name.lower(), name + b" ", rng.choice(words.NAMES))), value)


def _double(rng: Random, one: Draft) -> None:
    one.headers.insert(rng.randint(0, len(one.headers)), rng.choice(one.headers))


def _drop(rng: Random, one: Draft) -> None:
    if len(one.headers) > 1:
        del one.headers[rng.randrange(len(one.headers))]


def _pad(rng: Random, one: Draft) -> None:
    at = rng.randrange(len(one.headers))
    name, value = one.headers[at]
    space = rng.choice((b" ", b"\t", b"\r\n ", b"  \t "))
    one.headers[at] = (name, rng.choice((space + value, value + space, value[:3] + space + value[3:])))


def _lengthen(rng: Random, one: Draft) -> None:
    size, count = rng.choice(words.LONG_HEADERS)
    one.headers += [(b"X-%d" % number, b"x" * size) for number in range(count)]


def _garble(rng: Random, one: Draft) -> None:
    at = rng.randrange(len(one.headers))
    name, value = one.headers[at]
    one.headers[at] = (name, damaged(rng, value)) if rng.random() < 0.7 else (damaged(rng, name), value)


def _method(rng: Random, one: Draft) -> None:
    one.method = rng.choice(words.METHODS)


def _target(rng: Random, one: Draft) -> None:
    one.target = rng.choice(words.TARGETS) if rng.random() < 0.6 else damaged(rng, one.target)


def _version(rng: Random, one: Draft) -> None:
    one.version = rng.choice(words.VERSIONS)


_EDITS: Final[tuple[tuple[Edit, ...], tuple[int, ...]]] = (
    (_add, _replace, _rename, _double, _drop, _pad, _lengthen, _garble, _method, _target, _version),
    (25, 8, 6, 6, 6, 8, 3, 8, 5, 7, 3),
)
