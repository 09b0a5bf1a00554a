"""Chunks of an engine's answer, with the parser and past it."""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hubgate.proxy.net.chunks import content
from hubgate.proxy.upstream.connection_pool import ConnectionPool
from hubgate.proxy.upstream.engine_connection import BrokenError, EngineConnection, Patience
from hubgate.proxy.upstream.response_head import ResponseHead
from tests.cases import each
from tests.fakes.answers import chunk, head

HEAD = head(200, [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")])
EVENT = b"data: {}\n\n"
END = chunk(b"")

MALFORMED = {
    "sign": b"+5\r\nabcde\r\n",
    "minus": b"-5\r\nabcde\r\n",
    "space before": b" 5\r\nabcde\r\n",
    "space after": b"5 \r\nabcde\r\n",
    "prefix": b"0x5\r\nabcde\r\n",
    "underscore": b"1_0\r\n" + b"x" * 16 + b"\r\n",
    "no digit": b"\r\nabcde\r\n",
    "no hex": b"g\r\n" + b"x" * 16 + b"\r\n",
    "digit of another script": "\u0665\r\nabcde\r\n".encode(),
    "bare LF": b"5\nabcde\n",
    "bare LF, of the right length": b"5\n\nabcde\r\n",
    "bare CR": b"5\rabcde\r",
    "CR twice": b"5\r\rabcde\r\n",
    "size too small": b"4\r\nabcde\r\n",
    "no end": b"5\r\nabcdefg",
    "LF at the end": b"5\r\nabcde\n\n",
    "huge": b"f" * 17 + b"\r\nabcde\r\n",
}
ODD = {
    "upper case": b"A\r\nabcdefghij\r\n",
    "zeros before": b"0005\r\nabcde\r\n",
    "many zeros": b"0" * 12 + b"5\r\nabcde\r\n",
    "extension": b"5;a=b\r\nabcde\r\n",
    "quoted extension": b'5;a="b;c"\r\nabcde\r\n',
    "two": chunk(b"abc") * 2,
    "one and a half": chunk(b"abc") + b"3\r\nab",
    "half": b"a\r\nabcde",
    "of nothing but its end": b"2\r\n\r\n",
}


class Wire:
    """A transport whose other end is the test."""

    def __init__(self) -> None:
        self.closed = False

    def write(self, data: bytes) -> None: ...
    def resume_reading(self) -> None: ...

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True

    close = abort


class Taken:
    """Takes an answer, and tells which of its chunks came as such."""

    def __init__(self) -> None:
        self.body = b""
        self.chunks: list[bytes] = []

    def head(self, head: ResponseHead, length: int) -> None:
        del length
        assert head.status == 200

    def data(self, data: bytes, chunk: bytes = b"") -> None:
        self.body += data
        if chunk:
            assert data in chunk
            self.chunks.append(chunk)


async def exchanged(connection: EngineConnection, reads: Sequence[bytes]) -> tuple[Taken, bool]:
    """What arrives of an answer that is read like this, and whether it is whole."""
    taken = Taken()
    exchange = connection.exchange((b"", ()), taken, Patience(first_byte=5, idle=5, answer=60))
    task = asyncio.ensure_future(exchange)
    await asyncio.sleep(0)
    for read in reads:
        connection.data_received(read)
    connection.eof_received()
    try:
        await task
    except BrokenError:
        return taken, False
    return taken, True


def connected(pool: ConnectionPool | None = None) -> EngineConnection:
    """A connection to no engine."""
    pool = pool or ConnectionPool(5)
    connection = EngineConnection(("engine", 1, ""), pool.keepalive, pool.give_back, pool.lost)
    connection.connection_made(cast("asyncio.Transport", Wire()))
    return connection


async def answered(*reads: bytes) -> tuple[Taken, bool]:
    """What arrives of an answer in chunks that is read like this, and whether it is whole."""
    return await exchanged(connected(), [HEAD, *reads])


class Parsed:
    """The same by llhttp alone."""

    def __init__(self, reads: Sequence[bytes]) -> None:
        self.body = b""
        self.whole = False
        parser: Any = httptools.HttpResponseParser(self)
        try:
            for read in (HEAD, *reads):
                parser.feed_data(read)
        except httptools.HttpParserError:
            return

    def on_body(self, body: bytes) -> None:
        self.body += b"" if self.whole else body

    def on_message_complete(self) -> None:
        self.whole = True


@given(st.binary(min_size=1, max_size=5000))
@example(b"\r\n")
@example(b"x" * 0xFFFF)
@example(b"x" * 0x10000)
def test_a_whole_chunk(data: bytes) -> None:
    """Its content is found, and nothing is one with a byte more or less."""
    whole = chunk(data)
    assert whole[content(whole) : -2] == data
    assert [content(whole[:-1]), content(whole[1:-2]), content(whole + b"\n"), content(whole + END)] == [
        0
    ] * 4


@each("data", [b"", END, *MALFORMED.values(), *ODD.values()])
def test_everything_else(data: bytes) -> None:
    """The last chunk, more or less than one, and what is not written plainly are left to the parser."""
    if data != ODD["of nothing but its end"] and data != ODD["zeros before"]:
        assert content(data) == 0


@given(st.text("0123456789abcdefAF+-_x; \r\n", max_size=12))
@example("5\r\nabcde\r\n")
def test_nothing_is_taken_that_the_parser_refuses(text: str) -> None:
    """What is found to be a chunk is one to llhttp, with the same content."""
    data = text.encode()
    if start := content(data):
        parsed = Parsed([data, END])
        assert (parsed.whole, parsed.body) == (True, data[start:-2])


async def test_whole_chunks_pass_by_the_parser() -> None:
    """Those that are read one at a time come as they are, but for the first: the parser stood in the head."""
    chunks = [chunk(EVENT * times) for times in range(1, 6)]
    taken, whole = await answered(*chunks, END)
    assert (taken.body, whole, taken.chunks) == (EVENT * 15, True, chunks[1:])


@each(
    "reads",
    [
        (chunk(EVENT) * 3, chunk(EVENT)),
        (chunk(EVENT)[:3], chunk(EVENT)[3:], chunk(EVENT)),
        (chunk(EVENT), chunk(EVENT)[:9], chunk(EVENT)[9:], chunk(EVENT)),
        (chunk(EVENT), b"A;a=b\r\n", EVENT + b"\r\n", chunk(EVENT)),
        (chunk(EVENT) + b"a", b"\r\n", EVENT, b"\r\n" + chunk(EVENT), chunk(EVENT)),
    ],
)
async def test_the_parser_is_passed_by_again(reads: tuple[bytes, ...]) -> None:
    """Several chunks in one read, or one in several, cost nothing but that."""
    taken, whole = await answered(*reads, chunk(b"last"), END)
    assert (taken.body.replace(EVENT, b""), whole) == (b"last", True)
    assert taken.chunks[-1] == chunk(b"last")


@each("inner", [chunk(EVENT), chunk(b"x"), END, MALFORMED["sign"]])
@each("cut", [0, 1, 7])
async def test_what_looks_like_a_chunk_within_one(inner: bytes, cut: int) -> None:
    """Content is never taken for framing, wherever a read begins and ends."""
    outer = chunk(EVENT[:cut] + inner + inner)
    at = outer.index(b"\r\n") + 2 + cut
    reads = (chunk(EVENT), outer[:at], outer[at : at + len(inner)], outer[at + len(inner) :], chunk(EVENT))
    taken, whole = await answered(*reads, END)
    assert (taken.body, whole) == (EVENT + EVENT[:cut] + inner + inner + EVENT, True)
    assert taken.chunks == [chunk(EVENT)]


@pytest.mark.parametrize("chunked", MALFORMED.values(), ids=MALFORMED)
async def test_malformed_chunks_break_the_answer(chunked: bytes) -> None:
    """After chunks that were passed on as they were, too; what lies behind the fault is never taken."""
    before = [chunk(EVENT)] * 3
    taken, whole = await answered(*before, chunked, chunk(EVENT), END)
    assert not whole
    assert (taken.body.startswith(EVENT * 3), taken.body.count(EVENT)) == (True, 3)
    assert taken.chunks == before[1:]


@each("last", [END, b"0\r\nX-A: b\r\n\r\n", b"0;a=b\r\n\r\n", b"00\r\n\r\n"])
async def test_the_end(last: bytes) -> None:
    """The last chunk, with trailers or without, ends the answer; then another answer needs a head."""
    pool = ConnectionPool(5)
    connection = connected(pool)
    for _ in range(2):
        taken, whole = await exchanged(connection, [HEAD, chunk(EVENT), chunk(EVENT), last])
        assert (taken.body, whole, taken.chunks) == (EVENT * 2, True, [chunk(EVENT)])
    taken, whole = await exchanged(connection, [chunk(EVENT), END])
    assert (taken.body, whole) == (b"", False)


async def test_bodies_with_a_length_have_no_chunks() -> None:
    """What looks like one in them is content, also on a connection that carried chunks before."""
    connection, looks = connected(), chunk(EVENT)
    await exchanged(connection, [HEAD, chunk(EVENT), END])
    sized = head(200, [("Content-Length", str(3 * len(looks)))])
    taken, whole = await exchanged(connection, [sized + looks, looks, looks])
    assert (taken.body, whole, taken.chunks) == (looks * 3, True, [])


READS = st.lists(
    st.one_of(
        st.binary(min_size=1, max_size=40).map(chunk),
        st.lists(st.binary(min_size=1, max_size=40).map(chunk), max_size=3).map(b"".join),
        st.sampled_from(list(ODD.values())),
        st.tuples(st.sampled_from([*ODD.values(), *MALFORMED.values()]), st.integers(0, 9)).map(
            lambda drawn: drawn[0][: drawn[1]]
        ),
        st.sampled_from([*MALFORMED.values(), b"\r", b"\n", b"\r\n", b"a\r\n", b"a", EVENT]),
        st.just(END),
    ).filter(bool),
    max_size=12,
)


@given(READS)
async def test_all_is_as_the_parser_says(reads: list[bytes]) -> None:
    """Whatever is read, content and end are those that llhttp finds by itself."""
    parsed = Parsed(reads)
    taken, whole = await answered(*reads)
    assert whole == parsed.whole
    # What the parser made of a read that turned out to be malformed is not passed on.
    assert taken.body == parsed.body if whole else parsed.body.startswith(taken.body)
