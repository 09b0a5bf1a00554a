"""The same bytes as two others read them: requests by h11, answers as a client would."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import h11

from hubgate.proxy.endpoints import ENDPOINTS

_MOST: Final = 4 * 1024 * 1024  # bytes of a head that h11 holds: more than the proxy takes
_LINE: Final = re.compile(rb"\A([!-~]+) +([!-~]+) +(HTTP/1\.[01]\r\n)")
_SANE_ID: Final = re.compile(rb"[A-Za-z0-9._-]{8,128}")


@dataclass(frozen=True, slots=True)
class Reading:
    """A request as h11 reads it; `complete` is false where its body is malformed, or does not end."""

    method: bytes
    target: bytes
    version: bytes
    headers: tuple[tuple[bytes, bytes], ...]  # names in lower case
    body: bytes
    complete: bool

    def all(self, name: bytes) -> list[bytes]:
        """Every value of a header, in their order."""
        return [value for found, value in self.headers if found == name]

    @property
    def path(self) -> str:
        return self.target.partition(b"?")[0].decode("latin-1")

    @property
    def id(self) -> str | None:
        """The id that it asks for, where the proxy takes it."""
        first = next(iter(self.all(b"x-request-id")), b"")
        return first.decode() if _SANE_ID.fullmatch(first) else None

    @property
    def last(self) -> bool:
        """Whether it says that nothing follows (RFC 9112, section 9.3)."""
        options = {one.strip().lower() for value in self.all(b"connection") for one in value.split(b",")}
        return b"keep-alive" not in options if self.version == b"1.0" else b"close" in options

    @property
    def decided(self) -> bool:
        """Whether the audit has a line about it: it asks for something that not everybody may have."""
        method = "GET" if self.method == b"HEAD" else self.method.decode()
        if self.path.startswith("/v1/models/"):
            return method == "GET"
        endpoint = ENDPOINTS.get(self.path)
        return endpoint is not None and endpoint.method == method and endpoint.kind != "health"


def readings(data: bytes) -> tuple[list[Reading], bytes]:
    """The requests at the front of these bytes, and what h11 does not take for one; the last may be in part.

    Each is read by an h11 of its own: of HTTP/1.0 it keeps no connection.
    """
    found: list[Reading] = []
    while data := _as_strict(data):
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_MOST)
        connection.receive_data(data)
        try:
            head = connection.next_event()
        except h11.RemoteProtocolError:
            break
        if not isinstance(head, h11.Request):
            break
        body, complete = _body(connection)
        found.append(
            Reading(head.method, head.target, head.http_version, tuple(head.headers), body, complete)
        )
        if not complete:
            break
        data = bytes(connection.trailing_data[0])
    return found, data


def _body(connection: h11.Connection) -> tuple[bytes, bool]:
    body = bytearray()
    try:
        while isinstance(event := connection.next_event(), h11.Data):
            body += event.data
    except h11.RemoteProtocolError:
        return bytes(body), False
    return bytes(body), isinstance(event, h11.EndOfMessage)


def _as_strict(data: bytes) -> bytes:
    """The same without what a server may pass over and h11 does not: the known differences.

    Empty lines before a request (RFC 9112, section 2.2: a server should ignore one), and more than one space
    between the words of its first line (section 3: a recipient may split at any whitespace).
    """
    return _LINE.sub(rb"\1 \2 \3", data.lstrip(b"\r\n"), count=1)


@dataclass(frozen=True, slots=True)
class Said:
    """One answer of the proxy's."""

    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def id(self) -> str:
        return self.headers.get("x-request-id", "")

    def error(self) -> dict[str, Any]:
        """Its error, in whichever dialect."""
        error = json.loads(self.body)["error"]
        assert isinstance(error, dict)
        return error


class NoAnswerError(Exception):
    """What came is no answer."""


def answers(data: bytes, methods: Iterable[bytes]) -> Iterator[Said]:
    """The final answers in what came back, by the methods they answer. Raises `NoAnswerError`."""
    asked = iter(methods)
    while data:
        head, ended, data = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        if not ended or not re.fullmatch(r"HTTP/1\.1 [1-5][0-9][0-9] [A-Za-z '-]+", first):
            raise NoAnswerError(f"no head of an answer: {head[:200]!r}")
        status = int(first[9:12])
        if status == 100:
            continue
        pairs = [line.partition(": ") for line in lines]
        headers = {name.lower(): value for name, _, value in pairs}
        if len(headers) < len(pairs):
            raise NoAnswerError(f"a header stands twice: {head!r}")
        method = next(asked, None)
        # Of what was no request, the method is not known here; an answer to HEAD has no body.
        bodiless = method == b"HEAD" or (method is None and not data)
        body, data = (b"", data) if bodiless else _content(headers, data)
        yield Said(status, headers, body)


def _content(headers: dict[str, str], data: bytes) -> tuple[bytes, bytes]:
    if headers.get("transfer-encoding") == "chunked":
        pieces = []
        while True:
            size, _, data = data.partition(b"\r\n")
            end = int(size or b"-1", 16)
            if end < 0 or data[end : end + 2] != b"\r\n":
                raise NoAnswerError("an answer in chunks does not end")
            pieces.append(data[:end])
            data = data[end + 2 :]
            if end == 0:
                return b"".join(pieces), data
    if "content-length" not in headers:
        return data, b""
    end = int(headers["content-length"])
    if len(data) < end:
        raise NoAnswerError(f"{end - len(data)} bytes of an answer are missing")
    return data[:end], data[end:]
