"""threats.md, rows 5, 9 and 10: a path is taken as it is written, and only those of the table exist."""

import re
from pathlib import Path

import pytest

from hubgate.proxy.endpoints import ENDPOINTS
from tests.cases import each
from tests.fakes.raw import RawClient
from tests.fakes.running_proxy import CHAT, Edge
from tests.proxy.http.speech import AUTH, HEALTH, HOST, alive, head, post, refused, served

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROUTES = Path(__file__).with_name("engine_routes.txt")
PARAMETER = re.compile(r"\{[a-z_]+\}")
HOSTS_THAT_ARE_NONE = [
    b"a/health?x=",
    b"a/",
    b"a?x",
    b"a#x",
    b"user@a",
    b"user:pass@a",
    b"a b",
    b"a\tb",
    b"a,b",
    b"a\\b",
    b"a:b",
    b"a:80:80",
    b"a:99999999",
    b"http://a",
    b"[::1",
    b"::1",
    b"a%00b",
    b"<a>",
    b"\xc3\xa4",
    b"",
]


def at(target: bytes, method: bytes = b"POST") -> bytes:
    """The good request, with another target."""
    return post(line=method + b" " + target + b" HTTP/1.1")


@each("host", HOSTS_THAT_ARE_NONE)
async def test_row_5_hosts_that_are_none(edge: Edge, host: bytes) -> None:
    """A Host with a path, a user, a space or nothing is 400, close, 0-up."""
    await refused(edge, post(host=b"Host: " + host))
    await refused(edge, head(b"GET /health HTTP/1.1", b"Host: " + host))


@each("more", [b"Host: hubgate", b"Host: other", b"host: hubgate"])
async def test_row_5_two_hosts(edge: Edge, more: bytes) -> None:
    """Two Host lines are 400, equal ones too (RFC 9112, section 3.2)."""
    await refused(edge, post(more))


async def test_row_5_no_host(edge: Edge) -> None:
    """HTTP/1.1 without Host is 400."""
    await refused(edge, post(host=b""))


@pytest.mark.parametrize(
    "host", [b"hubgate", b"hub_gate.local:8080", b"127.0.0.1:1", b"[::1]", b"[::1]:8080"]
)
async def test_hosts(edge: Edge, host: bytes) -> None:
    """Any name or address is served, with or without a port."""
    await served(edge, post(host=b"Host: " + host))


@each(
    "target",
    [
        b"http://evil/",
        b"http://hubgate" + CHAT.encode(),
        b"HTTP://hubgate" + CHAT.encode(),
        b"https://hubgate" + CHAT.encode(),
        b"http:" + CHAT.encode(),
        b"ftp://evil/x",
        b"evil:443",
        b"hubgate" + CHAT.encode(),
        CHAT.encode().removeprefix(b"/"),
        b"*",
        b"?x",
        b"#x",
        b"\\v1\\models",
    ],
)
@each("method", [b"GET", b"POST", b"OPTIONS"])
async def test_row_5_targets_that_are_no_path(edge: Edge, method: bytes, target: bytes) -> None:
    """Absolute, authority and asterisk form: this is no forward proxy. 400, close, 0-up."""
    await refused(edge, at(target, method))


@each("byte", [*range(0x20), 0x7F, 0x80, 0xC3, 0xFF])
async def test_row_5_targets_with_bytes_that_belong_in_none(edge: Edge, byte: int) -> None:
    """Controls and bytes beyond ASCII must be escaped in a target (RFC 3986): 400, close, 0-up."""
    for target in (CHAT.encode() + b"%c", b"%c" + CHAT.encode(), CHAT.encode() + b"?%cx"):
        await refused(edge, at(target % byte))


async def test_row_5_targets_with_a_space(edge: Edge) -> None:
    """A space ends the target, and what follows is no version: 400, close, 0-up."""
    await refused(edge, at(CHAT.encode() + b" /health"))


CONFUSED = [
    "/v1/../pause",
    "/v1/./chat/completions",
    "/v1/chat/../chat/completions",
    "/v1/%2e%2e/pause",
    "/%2e%2e/pause",
    "/v1/.%2e/pause",
    "/v1/%252e%252e/pause",
    "/..;/pause",
    "//pause",
    f"/{CHAT}",
    "///v1/models",
    "/v1//chat/completions",
    "/v1/chat/completions/",
    "/v1%2fmodels",
    "/v1%2Fmodels",
    "/v1%5cmodels",
    "/v1\\models",
    "/%76%31/models",
    "/v1/chat%2fcompletions",
    f"{CHAT};x",
    f"{CHAT};jsessionid=1",
    f"{CHAT}#",
    f"{CHAT}#/health",
    f"{CHAT}%00",
    f"{CHAT}%20",
    f"{CHAT}%0d%0aX:y",
    f"{CHAT}%3Fx",
    f"{CHAT}.json",
    "/V1/chat/completions",
    "/v1/Chat/Completions",
    "/health/../pause",
    "/health%2f..%2fpause",
    "/health/",
    "/health;x",
    "/v1/model/../../pause",
    "/@evil",
    "/http://evil/",
    "/",
]


@each("path", CONFUSED)
async def test_row_9_path_confusion(edge: Edge, path: str) -> None:
    """No path is normalised or decoded on its way to the table: 404 for everybody, 0-up, 0-hub."""
    for method in (b"GET", b"POST"):
        await refused(edge, at(path.encode(), method), "unknown_endpoint", closed=False)
    await refused(edge, head(b"GET " + path.encode() + b" HTTP/1.1", HOST), "unknown_endpoint", closed=False)


@pytest.mark.parametrize("path", ["/v1/models/../pause", "/v1/models/..%2f..%2fpause", "/v1/models//pause"])
async def test_row_9_a_models_name_is_no_path(edge: Edge, path: str) -> None:
    """What follows /v1/models/ is the name of a model, and checked as one."""
    data = head(b"GET " + path.encode() + b" HTTP/1.1", HOST, AUTH)
    await refused(edge, data, "invalid_request", closed=False, known=True)
    assert edge.hub_calls()[-1] == "GET /api/whoami-v2"


def engine_routes() -> dict[str, set[str]]:
    """Methods by path; parameters have a value."""
    found: dict[str, set[str]] = {}
    for line in ROUTES.read_text().splitlines():
        if line and not line.startswith("#"):
            method, path = line.split(" ")
            found.setdefault(PARAMETER.sub("resp_1", path), set()).add(method)
    return found


async def test_row_10_the_engines_own_routes(edge: Edge) -> None:
    """Every route of the engine that is not in our table is 404 to every method, with a token and without."""
    routes = engine_routes()
    assert {"/invocations", "/collective_rpc", "/v1/load_lora_adapter", "/pause", "/metrics"} <= routes.keys()
    assert len(routes) > 60
    async with RawClient.connect(edge.port) as client:
        for path, methods in routes.items():
            if path in ENDPOINTS:
                continue
            asked = (methods | {"GET", "POST", "PUT", "DELETE", "OPTIONS"}) - {"ANY", "WEBSOCKET", "HEAD"}
            for method in sorted(asked):
                line = f"{method} {path} HTTP/1.1".encode()
                for data in (post(line=line), head(line, HOST)):
                    await client.send(data)
                    answer = await client.answer(method)
                    assert (answer.status, answer.code) == (404, "unknown_endpoint")
        await alive(client)
    assert edge.engine.wire == b""
    assert edge.hub_calls("alice") == []


@each("method", ["OPTIONS", "TRACE", "PUT", "PATCH", "DELETE", "GET", "HEAD"])
async def test_methods_outside_the_table(edge: Edge, method: str) -> None:
    """A known path with another method is 405 with `Allow`, an unknown one 404; neither asks anybody."""
    for target, code in ((CHAT, 405), ("/nowhere", 404)):
        async with RawClient.connect(edge.port) as client:
            await client.send(head(f"{method} {target} HTTP/1.1".encode(), HOST, AUTH))
            answer = await client.answer(method)
            assert answer.status == code
            assert answer.header("Allow") == ("POST" if code == 405 else None)
            await alive(client)
    assert edge.engine.wire == b""


async def test_head_is_get_without_a_body(edge: Edge) -> None:
    """HEAD has the headers of GET and no body, in refusals too; the next answer stands right behind it."""
    for target, status in (("/health", 200), ("/v1/models", 200), ("/nowhere", 404), (CHAT, 405)):
        async with RawClient.connect(edge.port) as client:
            await client.send(head(f"HEAD {target} HTTP/1.1".encode(), HOST, AUTH) + HEALTH)
            answer = await client.answer("HEAD")
            assert answer.status == status
            assert int(answer.header("Content-Length") or 0) > 0
            assert (await client.answer("GET")).json() == {"status": "alive"}


HEADS = {
    "no HTTP": (400, b"HEAD /health HTTP/1.1\r\nHost: hubgate\r\nX: \x00\r\n\r\n"),
    "no target": (400, b"HEAD \x01 HTTP/1.1\r\n\r\n"),
    "bad target": (400, b"HEAD /a\x00 HTTP/1.1\r\n\r\n"),
    "absolute": (400, b"HEAD http://a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    "no Host": (400, b"HEAD /health HTTP/1.1\r\n\r\n"),
    "lengths": (400, b"HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"),
    "version": (505, b"HEAD /health HTTP/3.7\r\nHost: a\r\n\r\n"),
    "a long line": (431, b"HEAD /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n"),
    "a long header": (431, b"HEAD /health HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 9000 + b"\r\n\r\n"),
    "many headers": (431, b"HEAD /health HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 300 + b"\r\n"),
    "upgrade": (400, b"HEAD / HTTP/1.1\r\nHost: a\r\nHost: b\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
}


@pytest.mark.parametrize(("status", "data"), HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("before", [b"", HEALTH, b"HEAD /health HTTP/1.1\r\nHost: a\r\n\r\n"])
async def test_a_head_that_is_no_request(edge: Edge, status: int, data: bytes, before: bytes) -> None:
    """Whatever is wrong with it, its answer has no body (RFC 9110, section 9.3.2), and is the last one."""
    async with RawClient.connect(edge.port) as client:
        await client.send(before + data)
        if before:
            assert (await client.answer(before.partition(b" ")[0].decode())).status == 200
        answer = await client.answer("HEAD")
        assert (answer.status, answer.header("Connection")) == (status, "close")
        assert int(answer.header("Content-Length") or 0) > 0
        assert await client.rest() == b""


@pytest.mark.parametrize("data", [b"garbage\r\n\r\n", b"GET /\x00 HTTP/1.1\r\n\r\n", b"\x16\x03\x01\r\n"])
async def test_garbage_after_a_head_is_no_head(edge: Edge, data: bytes) -> None:
    """The method of the request before it says nothing about its answer, which has a body."""
    async with RawClient.connect(edge.port) as client:
        await client.send(head(b"HEAD /health HTTP/1.1", HOST) + data)
        assert (await client.answer("HEAD")).status == 200
        answer = await client.answer()
        assert (answer.status, answer.code) == (400, "invalid_request")
        assert await client.rest() == b""


async def test_a_head_with_a_body_that_is_none(edge: Edge) -> None:
    """Where the fault comes after the head, as where it comes in it."""
    async with RawClient.connect(edge.port) as client:
        await client.send(head(b"HEAD /health HTTP/1.1", HOST, b"Transfer-Encoding: chunked") + b"zz\r\n")
        assert (await client.answer("HEAD")).status == 200
        assert await client.rest() == b""


async def test_a_query_goes_nowhere(edge: Edge) -> None:
    """A query does not matter to the table, and the engine never sees it."""
    await served(edge, at(CHAT.encode() + b"?x=/pause&y=%00"))
    assert edge.engine.requests[0].target == CHAT
