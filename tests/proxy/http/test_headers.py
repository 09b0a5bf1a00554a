"""threats.md, rows 6, 7 and 8, and what a header may be made of."""

import string

import pytest

from tests.cases import each
from tests.fakes.raw import RawClient
from tests.fakes.running_proxy import ALICE, BOB, Edge
from tests.proxy.http.conftest import CANARY
from tests.proxy.http.speech import AUTH, BODY, HOST, JSON, LENGTH, LINE, head, post, refused, served, told

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOKEN = set((string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~").encode())  # RFC 9110, section 5.6.2
SECRET = b"Authorization: Bearer " + CANARY.encode()


@each("byte", sorted({*range(0x20), 0x7F} - {0x09}))
async def test_controls_in_a_value(edge: Edge, byte: int) -> None:
    """A control character in a value is 400, close, 0-up (RFC 9110, section 5.5)."""
    for value in (b"X: a%cb", b"X: %cab", b"X: ab%c", b"X: a%cY: b"):
        await refused(edge, post(value % byte))


@each("byte", sorted({*range(256)} - TOKEN - {ord(":")}))
async def test_bytes_that_belong_in_no_name(edge: Edge, byte: int) -> None:
    """A name is a token: a space, a separator, a control or a byte beyond ASCII is 400, close, 0-up."""
    await refused(edge, post(b"X%cY: a" % byte))
    await refused(edge, post(b"X%c: a" % byte))
    await refused(edge, post(b"%cX: a" % byte))


@each(
    "line",
    [
        b": a",
        b"abc",
        b" : a",
        b"X: a\r\n folded",
        b"X: a\r\n\tfolded",
        b"X:\r\n folded",
        SECRET.replace(b": ", b" : "),
        SECRET.replace(b"Bearer ", b"Bearer\r\n "),
        SECRET + b"\nX: y",
        SECRET + b"\rX: y",
        SECRET + b"\x00",
    ],
)
async def test_lines_that_are_no_header(edge: Edge, line: bytes) -> None:
    """No name, no colon, space before it, obsolete folding (RFC 9112, section 5.2): 400, close, 0-up."""
    await refused(edge, post(line))
    await refused(edge, head(LINE, HOST, line))


async def test_a_fold_before_the_first_header(edge: Edge) -> None:
    """A header that begins with a space, right after the request line, is 400 (RFC 9112, section 2.2)."""
    await refused(edge, post(host=b" Host: hubgate\r\nHost: hubgate"))


@each("value", [b"\x80", b"\xff\xfe", "ä".encode(), "ä".encode("latin-1"), "\u2028".encode()])
@each("name", [b"X-Anything", b"Accept", b"traceparent", b"tracestate", b"X-Request-Id"])
async def test_bytes_beyond_ascii_in_a_value(edge: Edge, name: bytes, value: bytes) -> None:
    """They are allowed (RFC 9110, section 5.5, obs-text), mean nothing, and are not sent on."""
    answer = await served(edge, post(name + b": a" + value))
    assert edge.engine.wire.isascii()
    assert answer.raw.isascii()


@pytest.mark.parametrize("second", [AUTH, f"Authorization: Bearer {BOB}".encode(), b"authorization:"])
async def test_row_6_two_credentials(edge: Edge, second: bytes) -> None:
    """Two Authorization lines are 400, equal ones too; nobody is asked whose they are."""
    async with RawClient.connect(edge.port) as client:
        await client.send(post(second))
        told(await client.answer(), "invalid_request")
    assert edge.engine.wire == b""
    assert edge.hub_calls() == []


@pytest.mark.parametrize(
    "more",
    [
        [b"X_Hubgate_Grant: theirs"],
        [b"X-Hubgate_Grant: theirs"],
        [b"x-hubgate-grant: theirs", b"X-HUBGATE-GRANT: theirs"],
        [b"X.Hubgate.Grant: theirs"],
        [b"Connection: X-Hubgate-Grant"],
        [b"Connection: keep-alive, X-Hubgate-Grant, Content-Length, Authorization, X-Request-Id"],
        [b"Connection: X-Hubgate-Grant", b"Connection: Content-Type", b"X-Hubgate-Grant: theirs"],
        [b"Proxy-Connection: X-Hubgate-Grant", b"Keep-Alive: theirs", b"TE: trailers, theirs"],
        [b"Content_Length: 3", b"Transfer_Encoding: chunked", b"Host_: theirs"],
        [b"Trailer: X-Hubgate-Grant"],
    ],
)
async def test_row_7_no_name_stands_for_ours(edge: Edge, more: list[bytes]) -> None:
    """Ours arrives once, theirs never, and no hop-by-hop list takes ours away."""
    await served(edge, post(*more))
    received = edge.engine.requests[0]
    assert len(received.header("x-hubgate-grant") or "") > 100
    assert received.header("content-type") == "application/json"
    assert received.header("x-request-id")
    assert b"theirs" not in edge.engine.wire
    assert not any("_" in name for name, _ in received.headers)


@each(
    "line",
    [
        b"User-Agent: kube-probe/1.29",
        b"User-Agent: ELB-HealthChecker/2.0",
        b"X-Forwarded-Uri: /health",
        b"X-Original-URL: /health",
        b"X-Rewrite-URL: /health",
        b"X-Forwarded-Prefix: /health",
        b"X-Forwarded-Method: GET",
        b"X-HTTP-Method-Override: GET",
        b"X-Forwarded-For: 127.0.0.1",
        b"X-Forwarded-Host: localhost",
        b"Forwarded: for=127.0.0.1",
        b"X-Real-IP: 127.0.0.1",
        b"X-Forwarded-User: alice",
        b"X-Auth-Request-User: alice",
        b"Remote-User: alice",
        b"Cookie: token=" + ALICE.encode(),
        b"Proxy-Authorization: Bearer " + ALICE.encode(),
        b"X-Hubgate-Grant: x",
    ],
)
async def test_row_8_nothing_stands_for_a_credential(edge: Edge, line: bytes) -> None:
    """No user agent of a probe, no forwarded path, address or user skips authentication: 401, 0-hub."""
    anonymous = head(LINE, HOST, JSON, LENGTH, line) + BODY
    answer = await refused(edge, anonymous, "invalid_api_key", closed=False)
    assert answer.header("WWW-Authenticate") == "Bearer"


@each("where", ["line", "name", "value"])
@each("size", [9_000, 100_000])
async def test_row_13_long_lines(edge: Edge, where: str, size: int) -> None:
    """A request line, a name or a value of 9 KB is 431, close, 0-up."""
    long = b"a" * size
    data = {
        "line": head(b"GET /" + long + b" HTTP/1.1", HOST),
        "name": post(long + b": x"),
        "value": post(b"X: " + long),
    }[where]
    await refused(edge, data, "headers_too_large")


async def test_row_13_long_lines_are_told_before_they_end(edge: Edge) -> None:
    """What is too long already is not waited for."""
    for data in (b"GET /" + b"a" * 9_000, LINE + b"\r\nX: " + b"a" * 9_000, LINE + b"\r\n" + b"X" * 9_000):
        await refused(edge, data, "headers_too_large")


@pytest.mark.parametrize(
    "more",
    [
        [b"X-%d: a" % number for number in range(1_000)],
        [b"X: a"] * 1_000,
        [b"X-%d: %s" % (number, b"a" * 4_000) for number in range(100)],
    ],
    ids=["many", "many of one name", "many bytes"],
)
async def test_row_13_too_many_headers(edge: Edge, more: list[bytes]) -> None:
    """A thousand headers, or 400 KB of them, are 431, close, 0-up."""
    await refused(edge, post(*more), "headers_too_large")


async def test_row_13_too_many_headers_behind_another_protocol(edge: Edge) -> None:
    """They are told as anywhere, also where the request before them asked for another protocol."""
    before = head(b"GET /health HTTP/1.1", HOST, b"Connection: Upgrade", b"Upgrade: websocket")
    async with RawClient.connect(edge.port) as client:
        await client.send(before + post(*[b"X: a"] * 1_000))
        assert (await client.answer("GET")).status == 200
        told(await client.answer(), "headers_too_large")


async def test_many_headers(edge: Edge) -> None:
    """A hundred small headers, or one of 8,000 bytes, are no attack."""
    await served(edge, post(*(b"X-%d: a" % number for number in range(100))))
    await served(edge, post(b"X: " + b"a" * 8_000))


@pytest.mark.parametrize("kind", [b"Content-Encoding: gzip", b"Content-Encoding: identity, br"])
async def test_row_14_compressed_bodies(edge: Edge, kind: bytes) -> None:
    """A compressed body is not inflated: 415, 0-up; the connection goes on."""
    await refused(edge, post(kind), "unsupported_media_type", closed=False, known=True)


@pytest.mark.parametrize(
    "kind",
    [
        b"",
        b"Content-Type:",
        b"Content-Type: text/plain",
        b"Content-Type: application/x-www-form-urlencoded",
        b"Content-Type: multipart/form-data; boundary=x",
        b"Content-Type: application/jsonp",
        b"Content-Type: application/json, text/plain",
    ],
)
async def test_bodies_of_another_kind(edge: Edge, kind: bytes) -> None:
    """Only JSON is read: 415, 0-up; the connection goes on."""
    data = post().replace(JSON + b"\r\n", kind + b"\r\n" if kind else b"")
    await refused(edge, data, "unsupported_media_type", closed=False, known=True)


async def test_two_content_types(edge: Edge) -> None:
    """Two types could be read two ways: 400, close, 0-up."""
    await refused(edge, post(b"Content-Type: text/plain"))
    await refused(edge, post(JSON))


@pytest.mark.parametrize("second", [b"gzip", b"identity, gzip"])
async def test_row_14_two_content_encodings(edge: Edge, second: bytes) -> None:
    """A second line is one more coding (RFC 9110, section 5.3): 415 whichever comes first."""
    lines = [b"Content-Encoding: identity", b"Content-Encoding: " + second]
    for more in (lines, lines[::-1]):
        await refused(edge, post(*more), "unsupported_media_type", closed=False, known=True)


async def test_row_11_two_expectations(edge: Edge) -> None:
    """An expectation that cannot be met is 417 also behind one that can; no leave is given."""
    for more in ([b"Expect: 100-continue", b"Expect: x"], [b"Expect: x", b"Expect: 100-continue"]):
        await refused(edge, post(*more), "expectation_failed", closed=False, known=True)


@each("value", [b"x", b"100-continue, x", b"200-ok", b"100-continue=1", b""])
async def test_row_11_expectations(edge: Edge, value: bytes) -> None:
    """The one expectation that can be met is 100-continue: 417, 0-up."""
    await refused(edge, post(b"Expect: " + value), "expectation_failed", closed=False, known=True)
