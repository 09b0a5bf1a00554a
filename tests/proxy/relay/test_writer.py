"""What is written of an answer, read by a parser that is not ours (h11)."""

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubgate.proxy.http.request import Flow, RawHead, Response, ServerRequest, lines
from tests.fakes.answers import chunk

PIECES = st.lists(st.binary(min_size=1, max_size=300), max_size=12)


class Wire:
    """A connection that keeps what is written, and how the answer ended."""

    date = "Sun, 22 Nov 2026 12:00:00 GMT"
    draining = behind = False

    def __init__(self) -> None:
        self.sent = b""
        self.kept: bool | None = None

    def write(self, data: bytes) -> None:
        self.sent += data

    def admit(self) -> None: ...
    def set_source(self, source: Flow | None) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...

    def finished(self, *, keep: bool) -> None:
        self.kept = keep

    def cut(self) -> None:
        self.kept = False


def asked(wire: Wire, method: str, version: str, *, keep: bool) -> ServerRequest:
    """A request without a body."""
    head = RawHead(method=method, target="/", version=version, headers=(), peer="", keep_alive=keep)
    found = ServerRequest(wire, head)
    found.feed_end()
    return found


def read(wire: Wire, method: str, version: str, *, keep: bool) -> tuple[int, bytes, bool, object]:
    """Status, body, whether it is whole, and whether h11 would go on with the connection."""
    client = h11.Connection(h11.CLIENT)
    connection = [("Connection", "keep-alive" if keep else "close")]
    client.send(h11.Request(method=method, target="/", headers=[("Host", "x"), *connection]))
    client.send(h11.EndOfMessage())
    client.receive_data(wire.sent)
    if not wire.kept:
        client.receive_data(b"")
    status, body = 0, b""
    while True:
        try:
            event = client.next_event()
        except h11.RemoteProtocolError:
            return status, body, False, False
        match event:
            case h11.Response():
                status = event.status_code
            case h11.Data():
                body += bytes(event.data)
            case h11.EndOfMessage():
                assert client.trailing_data[0] == b""
                return status, body, True, client.their_state is h11.DONE
            case _:
                return status, body, False, False


@given(PIECES, st.sampled_from(["1.0", "1.1"]), st.booleans(), st.booleans(), st.booleans())
def test_pieces(pieces: list[bytes], version: str, sized: bool, keep: bool, chunked: bool) -> None:
    """What is written in pieces, or came as chunks, is read as it was; the connection goes on if it can."""
    wire, body = Wire(), b"".join(pieces)
    request = asked(wire, "POST", version, keep=keep)
    head = request.begin(200, "X-A: b\r\n", length=len(body) if sized else None)
    for piece in pieces:
        request.write(piece, head, chunk(piece) if chunked else b"")
        head = b""
    request.end(head)
    assert wire.kept == (keep and (sized or version == "1.1"))
    assert read(wire, "POST", version, keep=keep) == (200, body, True, wire.kept)
    assert (b"Transfer-Encoding" in wire.sent) == (not sized and version == "1.1")


@given(PIECES.filter(bool), st.booleans())
def test_pieces_that_break_off(pieces: list[bytes], sized: bool) -> None:
    """An answer that is cut is never whole to an HTTP/1.1 reader."""
    wire, body = Wire(), b"".join(pieces)
    request = asked(wire, "POST", "1.1", keep=True)
    head = request.begin(200, "", length=len(body) + 1 if sized else None)
    for piece in pieces:
        request.write(piece, head)
        head = b""
    request.cut()
    assert read(wire, "POST", "1.1", keep=True) == (200, body, False, False)


@given(st.binary(max_size=500), st.sampled_from(["GET", "HEAD", "POST"]), st.booleans(), st.booleans())
def test_whole_answers(body: bytes, method: str, keep: bool, close: bool) -> None:
    """An answer in one piece is read as it was; one to HEAD has its length and no body (RFC 9110, 9.3.2)."""
    for version in ("1.0", "1.1"):
        wire = Wire()
        asked(wire, method, version, keep=keep).respond(Response(404, body, "X-A: b\r\n", close=close))
        assert wire.kept == (keep and not close)
        assert f"Content-Length: {len(body)}\r\n".encode() in wire.sent
        seen = b"" if method == "HEAD" else body
        assert read(wire, method, version, keep=keep) == (404, seen, True, wire.kept)


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_answers_that_have_no_body(status: int, method: str) -> None:
    """Some statuses have none by themselves; 204 must not even tell its length (RFC 9110, section 8.6)."""
    wire = Wire()
    asked(wire, method, "1.1", keep=True).respond(Response(status, b"never sent", "X-A: b\r\n"))
    assert b"Content-Length" not in wire.sent
    assert read(wire, method, "1.1", keep=True) == (status, b"", True, True)


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: x", "a\nb", "\r\n\r\n"])
def test_no_header_splits_an_answer(value: str) -> None:
    """A line break in a header is an error of ours."""
    with pytest.raises(ValueError, match="line break"):
        lines((("X-A", value),))
