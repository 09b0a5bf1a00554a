"""Bytes of one caller's connection to requests, by llhttp.

llhttp is strict about framing: a length beside chunks, two lengths, folded headers, control characters
and bare line feeds are errors (RFC 9112, sections 5, 6 and 7). What it lets pass and we do not stands in
`_check`.
"""

import re
from typing import Final, Protocol

import httptools

from hubgate.proxy.errors import Code
from hubgate.proxy.http.request import KNOWN, BodyError, Link, RawHead, ServerRequest
from hubgate.proxy.net.repeated_head import RepeatedHead, learn_head

MAX_LINE: Final = 8 * 1024  # bytes of a request line or of one header
MAX_HEAD: Final = 64 * 1024  # bytes of all headers of a request
MAX_HEADERS: Final = 256
MAX_FRAMING: Final = 64 * 1024  # bytes of chunk framing, beyond sixteen for each byte of content
SMALL_READ: Final = 8 * 1024  # bytes that are read at once where a head is due

_NAMES: Final = {name.encode(): name for name in KNOWN}
# RFC 9110, section 7.2: uri-host [":" port]; no path, query, user or escapes.
_HOST: Final = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?", re.ASCII)
# What llhttp says of versions that it does not know, and of HTTP/2's preface.
_VERSIONS: Final = ("Invalid HTTP version", "Pause on PRI/Upgrade")


class _Faulty(Exception):  # noqa: N818 - the caller's fault, not ours
    def __init__(self, code: Code) -> None:
        super().__init__(code)
        self.code = code


class ParserOwner(Link, Protocol):
    """The connection that is read: what comes of it."""

    def on_request(self, request: ServerRequest) -> None: ...
    def on_error(self, code: Code, method: str) -> None: ...


class RequestParser:
    """Gives its owner each request at the end of its head, and feeds it the body; or refuses what is none.

    After the first refusal, and after a request that is its connection's last, it reads nothing more.
    """

    def __init__(self, owner: ParserOwner, peer: str) -> None:
        self._owner = owner
        self._peer = peer
        self._parser = httptools.HttpRequestParser(self)
        self.ignoring_input = False  # what comes is thrown away
        self.in_head = False  # a head has begun, and not ended
        # The request that is being read.
        self._method_read = False  # what the parser holds is this one's, and not the last one's
        self._target = b""
        self._headers: list[tuple[str, str]] = []
        self._length = 0  # of the body, as the head tells it
        self._host: str | None = None  # the last good one
        self._header_count = 0
        self._head_size = 0
        self._head_pieces = 0  # bytes of a line that has not ended
        self._reading: ServerRequest | None = None  # its body is still coming
        self._framing = 0  # bytes of its body that were no content
        # What was read before it.
        self._failed = False  # it was no request
        self._completed = 0  # requests that ended in what was read last
        self._head: RawHead | None = None  # the last one
        self._again = False  # it came twice in a row
        self._repeated_head: RepeatedHead | None = None  # of one that did

    @property
    def room(self) -> int:
        """How many bytes to read at once.

        A large read is for bodies: many small requests at once would take up far more than their bytes.
        """
        return SMALL_READ if self._reading is None else max(1, self._reading.room)

    def feed(self, data: memoryview) -> None:
        """Take what came; it may change once this returns."""
        if not self.ignoring_input and not self._repeated(data):
            self._read(data)

    def refuse(self, code: Code) -> None:
        """Read nothing more: tell whoever reads the body that is coming, else the owner."""
        self.ignoring_input = self._failed = True
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.keep_alive = False
            reading.feed_end(BodyError())  # whoever handles it tells
        else:
            # An answer to HEAD has no body, whatever is wrong with its headers (RFC 9110, section 9.3.2).
            self._owner.on_error(code, self._parser.get_method().decode() if self._method_read else "")

    def stop(self) -> bool:
        """Read nothing more. Gives whether the caller may still be sending what it began."""
        unread = self._failed or self._reading is not None
        self.ignoring_input = True
        self._reading = None
        return unread

    # Called by the parser.

    def on_message_begin(self) -> None:
        self.in_head = True
        self._method_read = False
        self._head_pieces = 0
        self._target = b""
        self._headers = []
        self._length = 0
        self._header_count = 0
        self._head_size = 0

    def on_url(self, url: bytes) -> None:
        self._method_read = True
        self._target += url
        if len(self._target) > MAX_LINE:
            raise _Faulty("headers_too_large")

    def on_header(self, name: bytes, value: bytes) -> None:
        size = len(name) + len(value)
        self._head_size += size
        self._header_count += 1
        if size > MAX_LINE or self._head_size > MAX_HEAD or self._header_count > MAX_HEADERS:
            raise _Faulty("headers_too_large" if self.in_head else "invalid_request")
        known = _NAMES.get(name.lower())
        if known == "content-length" and self.in_head:
            self._length = int(value)  # digits, and once at most, by the parser's word
        elif known is not None:  # after the body these are trailers, for nobody
            self._headers.append((known, value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        self.in_head = False
        version = self._parser.get_http_version()
        method = self._parser.get_method()
        self._check(version, method)
        if self._parser.should_upgrade():
            return  # declined below; the request comes once more without
        self._framing = 0
        head = RawHead(
            method=method.decode(),
            target=self._target.decode("latin-1"),
            version=version,
            headers=tuple(self._headers),
            peer=self._peer,
            keep_alive=self._parser.should_keep_alive(),
            last=self._head,
        )
        self._again = self._head is not None and self._head.same(head)
        if self._head is None or not self._again:
            self._head, self._repeated_head = head, None
        self._reading = request = ServerRequest(self._owner, self._head, self._length)
        self._owner.on_request(request)

    def on_body(self, body: bytes) -> None:
        assert self._reading is not None  # noqa: S101 - llhttp's order
        self._framing -= 17 * len(body)
        self._reading.feed(body)

    def on_message_complete(self) -> None:
        self._completed += 1
        if self._reading is not None:
            self._reading.feed_end()
            if not self._reading.keep_alive:
                self.ignoring_input = True  # the caller said that nothing comes after it
            self._reading = None

    # From the connection's bytes.

    def _repeated(self, data: memoryview) -> bool:
        """Take a request that comes whole and has the head of the last one; nothing of anything else.

        The parser stands between two requests, and need not see this one.
        """
        head, repeated = self._head, self._repeated_head
        if head is None or repeated is None or self._reading is not None or self.in_head:
            return False
        raw = bytes(data)
        start = repeated.body(raw)
        if not start:
            return False
        request = ServerRequest(self._owner, head, len(raw) - start)
        if start < len(raw):
            request.feed(raw[start:])
        request.feed_end()
        self._owner.on_request(request)
        self.ignoring_input = not head.keep_alive
        return True

    def _read(self, data: memoryview) -> None:
        """Take what came, in a loop: a read can hold hundreds of requests for another protocol."""
        declined = self._parse(data)
        while declined is not None:
            self._parse(self._without_upgrade())
            declined = self._parse(declined) if len(declined) else None

    def _parse(self, data: memoryview) -> memoryview | None:
        """Give what stands behind a request that asks for another protocol, if there is one."""
        if self.ignoring_input:  # since the parts before
            return None
        between = self._reading is None and not self.in_head  # two requests
        self._completed = 0
        size = self._head_size
        self._framing += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            return data[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            fault = error.__context__
            self._method_read = self._method_read or isinstance(error, httptools.HttpParserInvalidURLError)
            if isinstance(fault, _Faulty):
                self.refuse(fault.code)
            else:
                self.refuse("http_version" if str(error) in _VERSIONS else "invalid_request")
            return None
        if self.in_head:
            self._grow(len(data) if size == self._head_size else 0)
        elif self._framing > MAX_FRAMING and self._reading is not None:
            self.refuse("invalid_request")
        elif between and self._completed == 1 and self._again:
            self._repeated_head = learn_head(bytes(data))
        return None

    def _grow(self, size: int) -> None:
        """A head comes in pieces, `size` bytes of which ended no line: the parser holds those."""
        self._head_pieces = self._head_pieces + size if size else 0
        if self._head_pieces > MAX_LINE:
            self.refuse("headers_too_large")

    def _without_upgrade(self) -> memoryview:
        """The head as if it did not ask for another protocol (RFC 9110, section 7.8), for a new parser."""
        kept = list(self._headers)  # `Upgrade`, `HTTP2-Settings` and `Connection` are not among them
        if self._length:
            kept.append(("content-length", str(self._length)))
        kept.append(("connection", "keep-alive" if self._parser.should_keep_alive() else "close"))
        version = self._parser.get_http_version().encode()
        line = self._parser.get_method() + b" " + self._target + b" HTTP/" + version + b"\r\n"
        head = line + "".join([f"{name}: {value}\r\n" for name, value in kept]).encode("latin-1") + b"\r\n"
        self._parser = httptools.HttpRequestParser(self)
        return memoryview(head)

    def _check(self, version: str, method: bytes) -> None:
        """Refuse what llhttp lets pass."""
        if version not in ("1.0", "1.1"):
            raise _Faulty("http_version")
        if method == b"CONNECT":
            raise _Faulty("invalid_request")
        hosts = types = 0
        for name, value in self._headers:
            if name == "host":
                hosts += 1
                if value != self._host and not _HOST.fullmatch(value):
                    raise _Faulty("invalid_request")
                self._host = value
            elif name == "content-type":
                types += 1
            elif name == "transfer-encoding" and (version == "1.0" or value.lower() != "chunked"):
                raise _Faulty("invalid_request")  # RFC 9112, section 6.1
        if types > 1 or hosts > 1 or not (hosts or version == "1.0"):
            raise _Faulty("invalid_request")
        if not self._target.startswith(b"/"):
            raise _Faulty("invalid_request")  # absolute, authority and asterisk form are for other servers
