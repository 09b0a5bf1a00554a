"""One caller's connection: its requests are answered one after the other.

Whatever state it is in, there is a time after which a caller who does nothing for it is left, and a bound to
what is kept for them (`tests/proxy/http/test_held_open.py` has the list):

- TLS handshake, head of a request, pause between two requests: a time each, of which no byte wins more.
- Body: whoever reads it has a least rate for it (`proxy/body/reader.py`); 64 KiB are taken before.
- Answer: what the engine sends is held while the caller's buffer is full, and the caller must take what is
  in it at a least rate (`proxy/http/slow_reader.py`), be it heartbeats, a stream, or the last bytes of a
  connection that is to be closed. No request is begun while that buffer is full.
- Requests behind it: `MAX_PIPELINED`, and some 64 KiB of them; then nothing is read.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, cast

import structlog

from hubgate.proxy.errors import Code
from hubgate.proxy.frozen_struct import FrozenStruct
from hubgate.proxy.http.parser import RequestParser
from hubgate.proxy.http.request import WINDOW, Flow, RawHead, Response, ServerRequest
from hubgate.proxy.http.slow_reader import ReaderPace
from hubgate.proxy.net.deadline import NEVER, Deadline

MAX_PIPELINED: Final = 32  # requests that wait for the answers before them; no more is read then
HIGH_WATER: Final = 64 * 1024  # bytes that wait to be sent before their source is held
LINGER: Final = 10.0  # seconds in which what still comes after a last answer is thrown away
STALLED: Final = 60.0  # seconds in which a caller takes nothing of an answer (nginx's `send_timeout`)

log = structlog.get_logger("http")


class Server(Protocol):
    """What a connection needs of the server that it belongs to."""

    buffer: memoryview  # read into by all connections in turn; a read is used up before the next
    header_timeout: float  # seconds from the first byte of a request to the end of its head
    keepalive_timeout: float  # seconds between two requests
    least_rate: float  # bytes a second of an answer that callers have to take
    draining: bool

    @property
    def date(self) -> str: ...
    def opened(self, connection: "CallerConnection") -> None: ...
    def admitted(self, connection: "CallerConnection") -> None: ...
    def closed(self, connection: "CallerConnection") -> None: ...
    def handle(self, request: ServerRequest) -> Awaitable[None]: ...
    def refuse(self, code: Code, stranger: str | None) -> Response: ...


class ParseFault(FrozenStruct):
    """What came is no request; `method` is its own, as far as that could be read."""

    code: Code
    method: str


class CallerConnection:
    """A buffered protocol (asyncio's), by its methods: at most one request is with the handler.

    Those that were sent behind it wait.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self.write: Callable[[bytes], None]  # the transport's
        self.peer = ""
        self.admitted = False  # whether a request of it was let in
        self.port = 0  # the caller's
        self.handshake: asyncio.Task[None] | None = None  # of TLS, until it is done
        self._reader: RequestParser
        # What is being answered.
        self._waiting: deque[ServerRequest | ParseFault] = deque()
        self._current: ServerRequest | None = None
        self._task: asyncio.Task[None] | None = None  # from the first request on, one for all of them
        self._turn: asyncio.Future[None] | None = None  # what it waits for between two
        self._source: Flow | None = None
        self._pace: ReaderPace
        self._write_paused = False  # the caller does not read as fast as we write
        self._paused = False
        self._lingering = False
        # When it must have moved on.
        self._deadline = Deadline(self._loop, self._late)
        self._head_timed = True  # it counts from the first byte of a head, the first one's from the start

    @property
    def idle(self) -> bool:
        """Whether no request is under way."""
        return self._current is None

    def end(self) -> asyncio.Task[None] | None:
        """Close now: what was answered is still sent. Gives the task of what is under way, which is cut."""
        if self.handshake is not None:
            self.handshake.cancel()
            return None
        if self.idle and not self._lingering:
            self._close()
            return None
        self._transport.abort()
        return self._task

    def interrupt(self, which: Callable[[ServerRequest], bool]) -> bool:
        """Cancel the handler of the request under way if it is one of `which`; whether it was.

        The handler may still answer: this ends the request, not the connection.
        """
        request, task = self._current, self._task
        # While the task waits for its turn, the handler has not begun with the request yet.
        if request is None or task is None or self._turn is not None or not which(request):
            return False
        task.cancel()
        return True

    def abort(self) -> None:
        """Close now, whatever is unsent."""
        if self.handshake is not None:
            self.handshake.cancel()
        else:
            self._transport.abort()

    # Called by the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it
        transport.set_write_buffer_limits(high=HIGH_WATER)
        self.write = transport.write
        peer = transport.get_extra_info("peername")
        self.peer, self.port = peer[:2] if isinstance(peer, tuple) else ("", 0)
        self._pace = ReaderPace(transport, self._server.least_rate, STALLED)
        self._reader = RequestParser(self, self.peer)
        self._deadline.expire_in(self._server.header_timeout)
        if self.handshake is None:
            self._server.opened(self)
        self.handshake = None  # which was opened before

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        return self._server.buffer[: self._reader.room]

    def buffer_updated(self, nbytes: int) -> None:
        reader = self._reader
        reader.feed(self._server.buffer[:nbytes])
        if (
            reader.in_head
            and not (reader.ignoring_input or self._head_timed or self._waiting)
            and self._current is None
        ):
            self._time_head()
        if self._waiting and self._full:
            self.pause()

    def eof_received(self) -> None:
        """The caller left; an answer under way is for nobody."""
        self._close() if self.idle else self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._server.closed(self)
        self._deadline.cancel()
        self._reader.stop()
        self._waiting.clear()
        if self._task is not None and (self._turn is not None or not self.idle):
            self._task.cancel()

    def pause_writing(self) -> None:
        self._write_paused = True
        if self._current is not None and not self._transport.is_closing():
            self._await_reader()
        if self._source is not None:
            self._source.pause()

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._current is not None and not self._transport.is_closing():
            self._pace.end()
            self._deadline.when = NEVER
        if self._source is not None:
            self._source.resume()
        elif self._current is None and self._waiting:
            self._next()

    # Called by the request that is being answered.

    @property
    def date(self) -> str:
        return self._server.date

    @property
    def draining(self) -> bool:
        return self._server.draining

    @property
    def behind(self) -> bool:
        return self._write_paused

    def admit(self) -> None:
        if not self.admitted and not self._transport.is_closing():  # else it had to go, and is not counted
            self.admitted = True
            self._server.admitted(self)

    def set_source(self, source: Flow | None) -> None:
        self._source = source
        if source is not None and self._write_paused:
            source.pause()

    def pause(self) -> None:
        if not self._paused and not self._reader.ignoring_input:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._paused and not self._full:
            self._paused = False
            self._transport.resume_reading()

    def finished(self, *, keep: bool) -> None:
        self._source = None
        self._current = None
        self.resume()
        if self._transport.is_closing():
            return
        if not keep:
            self._leave()
        elif self._waiting:
            if not self._write_paused:
                self._next()
        elif self._reader.in_head:
            self._time_head()
        else:
            self._deadline.expire_in(self._server.keepalive_timeout)

    def cut(self) -> None:
        """End it so that the caller sees it broken off; what was written before still goes out."""
        self._source = None
        self._close()

    # Called by the reader.

    def on_request(self, request: ServerRequest) -> None:
        self._head_timed = False
        if self._current is None and not self._waiting:
            if not self._write_paused:
                self._start(request)
                return
            self._await_reader()  # its answer would only wait with those that are not taken
        self._waiting.append(request)

    def on_error(self, code: Code, method: str) -> None:
        """Tell the caller, after the answers that are due before."""
        self._waiting.append(ParseFault(code, method))
        if self._current is None and len(self._waiting) == 1:
            self._next()

    # Answering, one after the other.

    def _next(self) -> None:
        following = self._waiting.popleft()
        if isinstance(following, ServerRequest):
            self._start(following)
            self.resume()
            return
        none = RawHead(
            method=following.method, target="", version="1.1", headers=(), peer=self.peer, keep_alive=False
        )
        last = ServerRequest(self, none)
        self._current = last
        last.respond(self._server.refuse(following.code, None if self.admitted else self.peer))

    def _start(self, request: ServerRequest) -> None:
        self._current = request
        self._deadline.when = NEVER  # nothing is due from the caller now
        if self._task is None:
            self._task = self._loop.create_task(self._answer())
        elif self._turn is not None and not self._turn.done():
            self._turn.set_result(None)

    @property
    def _full(self) -> bool:
        """Whether no more is read of what was sent behind the request that is being answered."""
        held = 0
        for waiting in self._waiting:
            if isinstance(waiting, ServerRequest):
                held += waiting.kept
        return held > WINDOW or len(self._waiting) > MAX_PIPELINED

    async def _answer(self) -> None:
        """Have one request after the other handled, until one is cut or the connection is gone."""
        while not self._transport.is_closing():
            request = self._current
            if request is None:
                self._turn = self._loop.create_future()
                await self._turn
                self._turn = None
                continue
            try:
                await self._server.handle(request)
            except Exception as error:  # noqa: BLE001 - its text may quote the request
                log.error("the gateway itself failed", error=type(error).__name__)  # noqa: TRY400
            if self._current is request:  # without a whole answer
                self.cut()

    def _leave(self) -> None:
        """Close after a last answer; not before the caller could read it (RFC 9112, section 9.6)."""
        unread = self._reader.stop() or bool(self._waiting)
        self._waiting.clear()
        self.resume()
        if not unread:
            self._close()
            return
        # Closing with bytes unread resets the connection, and the answer might be lost with it.
        self._lingering = True
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._deadline.expire_in(LINGER)

    def _close(self) -> None:
        """Close when all is sent, or when nobody takes it; or with TLS, when nobody answers its end."""
        self._waiting.clear()
        self._transport.close()
        self._await_reader()

    def _await_reader(self) -> None:
        """Have the caller take what was sent; until they do, it is they who are waited for."""
        self._deadline.expire_in(self._pace.begin())

    def _time_head(self) -> None:
        self._head_timed = True
        self._deadline.expire_in(self._server.header_timeout)

    def _late(self) -> None:
        """The caller has not moved on in time."""
        if self._lingering:
            self._transport.abort()
        elif self._transport.is_closing() or (self._write_paused and (self._waiting or not self.idle)):
            left = self._pace.look()
            if left > 0:
                self._deadline.expire_in(left)
            else:
                self._transport.abort()
        elif self._reader.in_head and not self._waiting:
            self._reader.refuse("request_timeout")
        else:
            self._close()
