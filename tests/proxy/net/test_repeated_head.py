"""Heads that come again pass by the parser, and nothing else does."""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hubgate.proxy.http.caller_connection import CallerConnection, Server
from hubgate.proxy.http.request import Response, ServerRequest
from hubgate.proxy.net.repeated_head import MAX_HEAD, learn_head
from hubgate.proxy.upstream import engine_connection as engines
from hubgate.proxy.upstream.connection_pool import ConnectionPool
from hubgate.proxy.upstream.engine_connection import BrokenError, Patience
from hubgate.proxy.upstream.response_head import ResponseHead
from tests.cases import each
from tests.fakes import answers

START = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n"
TYPE = b"Content-Type: application/json\r\n"


def post(body: bytes, *, before: bytes = b"", length: object = None, after: bytes = TYPE) -> bytes:
    """A request; `length` is what it says of its body's."""
    told = len(body) if length is None else length
    return START + before + f"Content-Length: {told}\r\n".encode() + after + b"\r\n" + body


# What stands where `post(b"hello")` has just been taken: of the same kind, nearly so, or not at all.
NEXT = {
    "the same": post(b"hello"),
    "shorter": post(b"hi"),
    "none": post(b""),
    "longer": post(b"x" * 1234),
    "zeros": post(b"hello", length="005"),
    "more bytes than told": post(b"hello", length=4),
    "fewer": post(b"hello", length=6),
    "far fewer": post(b"hello", length=2**40),
    "too many digits": post(b"hello", length="0" * 30 + "5"),
    "no digits": post(b"hello", length=""),
    "sign": post(b"hello", length="+5"),
    "minus": post(b"hello", length="-5"),
    "hex": post(b"hello", length="0x5"),
    "space before": post(b"hello", length="  5"),
    "space after": post(b"hello", length="5 "),
    "two in one": post(b"hello", length="5,5"),
    "digit of another script": post(b"hello", length="\u0665"),
    "another header before": post(b"hello", before=b"X-Api-Key: k\r\n"),
    "another header after": post(b"hello", after=TYPE + b"X-Api-Key: k\r\n"),
    "another length": post(b"hello", after=TYPE + b"Content-Length: 5\r\n"),
    "another value": post(b"hello", after=TYPE.replace(b"json", b"xml_")),
    "another target": post(b"hello").replace(b"/v1", b"/v2"),
    "another case": post(b"hello").replace(b"POST", b"post"),
    "chunks": post(b"0\r\n\r\n", after=TYPE + b"Transfer-Encoding: chunked\r\n"),
    "folded": post(b"hello", after=b" folded\r\n" + TYPE),
    "bare LF": post(b"hello").replace(b"\r\n", b"\n"),
    "the end moved": post(b"lo").replace(b"lo", b"\r\nlo"),
    "goes": post(b"hello", after=TYPE + b"Connection: close\r\n"),
    "two": post(b"hello") * 2,
    "one and a half": post(b"hello") + post(b"hello")[:50],
    "line before": b"\r\n" + post(b"hello"),
    "line after": post(b"hello") + b"\r\n",
    "byte after": post(b"hello") + b"x",
    "get": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "a body that is a request": post(post(b"hello")),
    "upgrade": post(b"hello", after=b"Connection: Upgrade\r\nUpgrade: h2c\r\n"),
    "nonsense": b"\x16\x03\x01",
}


class Wire:
    """A transport whose other end is the test."""

    def __init__(self) -> None:
        self.sent = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        self.sent += data

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True

    close = abort

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str) -> tuple[str, int] | None:
        return ("192.0.2.1", 5) if name == "peername" else None

    def set_write_buffer_limits(self, high: int) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class Caller:
    """One connection, and what the requests on it turned out to be; a server, by its methods."""

    header_timeout = keepalive_timeout = 5.0
    least_rate = 1.0
    draining = False
    date = "now"

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(64 * 1024))
        self.taken: list[tuple[object, ...]] = []
        self.heads: list[object] = []
        self.wire = Wire()
        self.connection = CallerConnection(cast("Server", self))
        self.connection.connection_made(cast("asyncio.Transport", self.wire))

    def opened(self, connection: CallerConnection) -> None: ...
    def closed(self, connection: CallerConnection) -> None: ...

    async def handle(self, request: ServerRequest) -> None:
        body = b""
        try:
            while part := await request.read():
                body += part
        finally:
            head = request.head
            self.heads.append(head)
            told = (head.method, head.target, head.version, head.headers, head.keep_alive, request.length)
            self.taken.append((*told, body))
        request.respond(Response(200, b""))

    def refuse(self, code: str, stranger: str | None) -> Response:
        del stranger
        self.taken.append((code,))
        return Response(400, b"", close=True)

    async def read(self, *reads: bytes) -> None:
        """Have all of it read, and each request answered that can be."""
        for data in reads:
            for start in range(0, len(data), 8 * 1024):
                part = data[start : start + 8 * 1024]
                self.connection.get_buffer(-1)[: len(part)] = part
                self.connection.buffer_updated(len(part))
        before = None
        while before != (before := (len(self.taken), self.wire.sent)):
            for _ in range(5):  # turns of the loop from one state to the next
                await asyncio.sleep(0)

    async def gone(self) -> None:
        self.connection.connection_lost(None)
        if task := self.connection.end():
            await asyncio.wait([task])


def vars_of(connection: Any) -> Any:
    """The inside of a connection, to look at."""
    return connection


def halved(data: bytes) -> tuple[bytes, bytes]:
    """So that nothing of it comes whole."""
    return data[: len(data) // 2], data[len(data) // 2 :]


async def compared(messages: Sequence[bytes]) -> Caller:
    """What comes of messages, each in one read; that is the same where each comes in two."""
    whole, parted = Caller(), Caller()
    for message in messages:
        await whole.read(message)
        await parted.read(*halved(message))
    await whole.gone()
    await parted.gone()
    assert whole.taken == parted.taken
    assert whole.wire.sent == parted.wire.sent
    assert whole.wire.closed == parted.wire.closed
    return whole


@pytest.mark.parametrize("following", NEXT.values(), ids=NEXT)
async def test_what_follows_is_as_the_parser_says(following: bytes) -> None:
    """After a head that may come again, whatever comes is taken as if it did not."""
    first = post(b"hello")
    seen = await compared([first, first, first, following, first])
    assert len(seen.taken) >= 3


@given(st.lists(st.sampled_from(list(NEXT.values())), max_size=8), st.integers(2, 4))
async def test_any_order(messages: list[bytes], times: int) -> None:
    """Requests that repeat the one before, and others, in any order are what they are one by one."""
    await compared([message for message in messages for _ in range(times)])


@given(st.binary(max_size=3000), st.binary(max_size=3000), st.integers(0, 200), st.binary(max_size=2))
async def test_any_change(first: bytes, second: bytes, at: int, put: bytes) -> None:
    """A head that is changed anywhere is read anew."""
    changed = post(second)
    await compared([post(first), post(second), changed[:at] + put + changed[at + len(put) :]])


class Fed:
    """A parser, and what it was fed."""

    def __init__(self, parser: Any) -> None:
        self._parser = parser
        self.reads: list[bytes] = []

    def feed_data(self, data: memoryview) -> None:
        self.reads.append(bytes(data))
        self._parser.feed_data(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)


def fed(caller: Caller) -> Fed:
    """The parser of this caller's connection, watched from now on."""
    reader = vars_of(caller.connection)._reader
    reader._parser = parser = Fed(reader._parser)
    return parser


async def test_repeated_heads_pass_by_the_parser() -> None:
    """From the third one on; one object serves all requests, whatever the lengths of their bodies."""
    caller = Caller()
    parser = fed(caller)
    lengths = [5, 6, 0, 1, 4000, 12, 5]
    for length in lengths:
        await caller.read(post(b"x" * length))
    await caller.gone()
    assert [len(cast("bytes", taken[-1])) for taken in caller.taken] == lengths
    assert [taken[-2] for taken in caller.taken] == lengths
    assert len(set(map(id, caller.heads))) == 1
    assert parser.reads == [post(b"x" * 5), post(b"x" * 6)]


async def test_a_header_that_nobody_reads_may_differ() -> None:
    """Such requests go to the parser, and have one head."""
    caller = Caller()
    for number in range(4):
        await caller.read(post(b"hello", before=f"X-Nonce: {number}\r\n".encode()))
    await caller.gone()
    assert len(caller.taken) == 4
    assert len(set(map(id, caller.heads))) == 1


@each("name", ["traceparent", "x-request-id", "x-forwarded-for", "authorization", "accept"])
async def test_a_header_that_somebody_reads_may_not(name: str) -> None:
    """Each such request has a head of its own, with its own value."""
    caller = Caller()
    for number in range(4):
        await caller.read(post(b"hello", before=f"{name}: {number}\r\n".encode()))
    await caller.gone()
    assert [cast("Any", head).header(name) for head in caller.heads] == ["0", "1", "2", "3"]


async def test_another_head_takes_its_place() -> None:
    """A caller who changes the head has the new one known, and the old one no more."""
    caller = Caller()
    first, other = post(b"a"), post(b"a", before=b"X-Api-Key: k\r\n")
    for message in (first, first, first, other, other, other, first):
        await caller.read(message)
    await caller.gone()
    has_key = [("x-api-key", "k") in cast("Any", head).headers for head in caller.heads]
    assert has_key == [False] * 3 + [True] * 3 + [False]
    assert len(set(map(id, caller.heads))) == 3


async def test_what_comes_in_pieces_goes_to_the_parser() -> None:
    """A repeated head whose body is still coming is read as ever, and known all the same."""
    caller = Caller()
    parser = fed(caller)
    for length in (5, 5, 20_000, 5, 5, 5):
        await caller.read(post(b"x" * length))
    await caller.gone()
    assert [len(cast("bytes", taken[-1])) for taken in caller.taken] == [5, 5, 20_000, 5, 5, 5]
    assert [read.startswith(START) for read in parser.reads] == [True, True, True, False, False]


@each(
    "message",
    [
        b"",
        b"\r\n\r\n",
        NEXT["get"],
        START + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        NEXT["two"],
        NEXT["fewer"],
        NEXT["more bytes than told"],
        NEXT["no digits"],
        post(b"hello", before=b"X-Pad: " + b"x" * MAX_HEAD + b"\r\n"),
    ],
)
def test_what_is_no_template(message: bytes) -> None:
    """Only a head of ordinary size that tells the length of all that follows it."""
    assert learn_head(message) is None


class Parsed:
    """A message by llhttp alone: its body, if it is whole and nothing else."""

    def __init__(self, data: bytes) -> None:
        self.body = b""
        self.ends = 0
        parser: Any = httptools.HttpRequestParser(self)
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.ends = -1

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.ends += 1


@given(st.text("0123456789 +-x,\t", max_size=12), st.binary(max_size=20))
@example("5", b"hello")
@example("05", b"hello")
def test_nothing_is_taken_that_the_parser_refuses(length: str, body: bytes) -> None:
    """What a template finds to be one message is one to llhttp, with the same body."""
    known = learn_head(post(b"hello"))
    assert known is not None
    data = post(body, length=length)
    if start := known.body(data):
        parsed = Parsed(data)
        assert (parsed.ends, parsed.body) == (1, data[start:])


# The engine's side.

PLAIN = [("Content-Type", "application/json"), ("Date", "now")]


def sized(body: bytes, length: object = None, status: int = 200) -> bytes:
    told = len(body) if length is None else length
    return answers.head(status, [*PLAIN, ("Content-Length", str(told))]) + body


ANSWERS = {
    "the same": sized(b"hello"),
    "longer": sized(b"x" * 3000),
    "none": sized(b""),
    "fewer bytes than told": sized(b"hello", 6),
    "more": sized(b"hello", 4),
    "sign": sized(b"hello", "+5"),
    "two lengths": sized(b"hello", "5\r\nContent-Length: 5"),
    "another status": sized(b"hello", status=400),
    "interim": b"HTTP/1.1 100 Continue\r\n\r\n" + sized(b"hello"),
    "chunks": answers.head(200, [*PLAIN, ("Transfer-Encoding", "chunked")])
    + answers.chunk(b"hello")
    + answers.chunk(b""),
    "chunks and length": answers.head(
        200, [*PLAIN, ("Transfer-Encoding", "chunked"), ("Content-Length", "5")]
    )
    + b"hello",
    "coded": answers.head(200, [*PLAIN, ("Content-Encoding", "gzip"), ("Content-Length", "5")]) + b"hello",
    "goes": answers.head(200, [*PLAIN, ("Connection", "close"), ("Content-Length", "5")]) + b"hello",
    "two": sized(b"hello") * 2,
    "half": sized(b"hello")[:20],
    "nonsense": b"nonsense",
    "an answer and the beginning of one": sized(b"hello") + b"HTTP/1.1 200 OK\r\nX-",
    "interim that tells a length": b"HTTP/1.1 103 Early Hints\r\nContent-Length: %d\r\n\r\n%b"
    % (len(sized(b"hello")), sized(b"hello")),
    "nothing to come": answers.head(204, [("Content-Length", "0")]),
    "nothing to come, and some": answers.head(204, [("Content-Length", "5")]) + b"hello",
}


class Taken:
    """Takes an answer."""

    def __init__(self) -> None:
        self.told: tuple[object, ...] = ()
        self.head_object: object = None
        self.body = b""

    def head(self, head: ResponseHead, length: int) -> None:
        self.head_object = head
        self.told = (head.status, head.framing, head.streaming, head.lines, length)
        if head.status == 200 and head.framing == "unclear":
            raise BrokenError

    def data(self, data: bytes, chunk: bytes = b"") -> None:
        del chunk
        self.body += data


async def asked(connection: engines.EngineConnection, *reads: bytes) -> tuple[Taken, bool]:
    """What arrives of an answer, and whether it is whole; it ends with the engine's leave, at the latest."""
    taken = Taken()
    task = asyncio.ensure_future(
        connection.exchange((b"", ()), taken, Patience(first_byte=5, idle=5, answer=60))
    )
    await asyncio.sleep(0)
    for read in reads:
        connection.data_received(read)
    await asyncio.sleep(0)
    if not task.done():
        connection.eof_received()
    try:
        await task
    except BrokenError:
        return taken, False
    return taken, True


def engine() -> tuple[engines.EngineConnection, Wire]:
    wire = Wire()
    pool = ConnectionPool(5)
    connection = engines.EngineConnection(("engine", 1, ""), pool.keepalive, pool.give_back, pool.lost)
    connection.connection_made(cast("asyncio.Transport", wire))
    return connection, wire


@given(st.lists(st.sampled_from(list(ANSWERS.values())), min_size=1, max_size=6))
@example([ANSWERS["the same"], ANSWERS["the same"], ANSWERS["two"]])
@example([ANSWERS["the same"], ANSWERS["goes"], ANSWERS["the same"]])
@example([ANSWERS["interim that tells a length"]] * 3)
@example([ANSWERS["nothing to come"]] * 2 + [ANSWERS["nothing to come, and some"]])
async def test_answers_are_as_the_parser_says(sent: list[bytes]) -> None:
    """Whatever an engine sends, in one read or in two, the same arrives, and the connection is as good."""
    (whole, at_once), (parted, in_parts) = engine(), engine()
    for answer in sent:
        first, good = await asked(whole, answer)
        second, as_good = await asked(parted, *halved(answer))
        assert (first.told, good) == (second.told, as_good)
        if good:
            assert first.body == second.body
        assert at_once.closed == in_parts.closed
        if at_once.closed:
            break
    whole.connection_lost(None)
    parted.connection_lost(None)


async def test_repeated_answers_pass_by_the_parser() -> None:
    """One object stands for the heads of all answers that differ in their lengths alone."""
    connection, wire = engine()
    taken = []
    for length in (5, 7, 0, 2000):
        seen, whole = await asked(connection, sized(b"x" * length))
        assert (whole, len(seen.body), seen.told[-1]) == (True, length, length)
        taken.append(seen.head_object)
    assert len(set(map(id, taken))) == 1
    assert not wire.closed
    connection.connection_lost(None)


async def test_what_cannot_be_passed_on_is_refused() -> None:
    """A head that the relay refuses breaks the connection."""
    connection, wire = engine()
    _, whole = await asked(connection, ANSWERS["coded"])
    assert (whole, wire.closed) == (False, True)
    connection.connection_lost(None)
