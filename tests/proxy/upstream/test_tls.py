"""TLS to backends and engines: who is refused, what is said of it, and what somebody on the wire sees."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from structlog.testing import capture_logs

from hubgate.runtime import tls
from hubgate.wire.certificates import Kind
from hubgate.wire.control_api import GRANT_HEADER
from tests.fakes.answers import Stream, completion
from tests.fakes.backend import FakeBackend, Held
from tests.fakes.engine import LOCAL, RawEngine
from tests.fakes.pki import Pair, Pki
from tests.fakes.raw import RawClient, request
from tests.fakes.running_proxy import ALICE, BASE, CHAT, Edge, Tls, eventually
from tests.proxy.conftest import StartEdge

EXPIRY = "hubgate_certificate_expiry_timestamp_seconds"
SECRET = "the quick brown canary"


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    """Whose word counts on both sides."""
    return Pki(tmp_path)


def good(pki: Pki) -> Tls:
    """Everybody is who they should be."""
    return Tls(pki.control().listener(), pki.engine().listener(), pki.upstream())


async def problem(edge: Edge, events: list[Any]) -> str:
    """What the log says of the backend."""

    def said() -> list[str]:
        return [one["problem"] for one in events if one["event"] == "upstream" and one.get("problem")]

    async def told() -> bool:
        return bool(said())

    await eventually(told)
    assert edge.engine.requests == []
    return said()[0]


async def test_a_request_and_a_stream(start_edge: StartEdge, pki: Pki) -> None:
    """Hello, request, stream and a load: all of it with TLS, and the connection is kept."""
    edge = await start_edge(tls=good(pki))
    assert (await edge.chat()).status == 200
    edge.engine.then(Stream(count=5).finish())
    stream = await edge.sdk().chat.completions.create(model=BASE, messages=[], stream=True)
    assert len([chunk async for chunk in stream]) == 5
    assert (await edge.chat("demo/public-lora")).status == 200
    assert edge.engine.handshakes == 1
    expiry = await edge.metric(EXPIRY, certificate="upstreams.gpu-0.tls")
    assert expiry == edge.checked.upstream_tls["gpu-0"].until > time.time()
    assert edge.backend.asked


async def test_a_large_body(start_edge: StartEdge, pki: Pki) -> None:
    """It comes whole, however it is cut into records."""
    edge = await start_edge(tls=good(pki))
    content = "".join(map(str, range(300_000)))
    assert (await edge.chat(messages=[{"role": "user", "content": content}])).status == 200
    assert edge.engine.requests[-1].json()["messages"][0]["content"] == content


def another(pki: Pki) -> Pki:
    """An authority that nobody here knows."""
    return Pki(pki.folder, "other")


SERVERS: dict[str, tuple[Callable[[Pki, Kind], Pair], str]] = {
    "authority": (
        lambda pki, kind: another(pki).pair(kind, "gpu-0"),
        "unable to get local issuer certificate",
    ),
    "expired": (lambda pki, kind: pki.pair(kind, "gpu-0", from_days=-9, days=1), "certificate has expired"),
    "not yet valid": (lambda pki, kind: pki.pair(kind, "gpu-0", from_days=9), "certificate is not yet valid"),
    "name": (lambda pki, kind: pki.pair(kind, "gpu-1"), "not valid for 'gpu-0'"),
    "proxy": (lambda pki, _: pki.pair("proxy", "gpu-0"), "unsuitable certificate purpose"),
    "other server": (
        lambda pki, kind: pki.pair("engine" if kind == "backend" else "backend", "gpu-0"),
        "the certificate is that of a",
    ),
}


@pytest.mark.parametrize("wrong", SERVERS)
async def test_a_wrong_backend_is_told_nothing(start_edge: StartEdge, pki: Pki, wrong: str) -> None:
    """It gets no grant and no token; the log says what is wrong with it, and callers that nobody is there."""
    make, why = SERVERS[wrong]
    ends = Tls(pki.server(make(pki, "backend")), pki.engine().listener(), pki.upstream())
    with capture_logs() as events:
        edge = await start_edge(tls=ends, ready=False)
        assert why in await problem(edge, events)
    answer = await edge.chat()
    assert (answer.status, answer.json()["error"]["code"]) == (503, "no_upstream")
    assert b"ertificate" not in answer.body
    assert (edge.backend.hellos, edge.backend.refused) == (0, [])


@pytest.mark.parametrize("wrong", SERVERS)
async def test_a_wrong_engine_is_told_nothing(start_edge: StartEdge, pki: Pki, wrong: str) -> None:
    """It gets neither grant nor prompt, though its backend says that it is one of its engines."""
    make, why = SERVERS[wrong]
    ends = Tls(pki.control().listener(), pki.server(make(pki, "engine")), pki.upstream())
    with capture_logs() as events:
        edge = await start_edge(tls=ends)
        answer = await edge.chat()
        again = await edge.chat()
    assert (answer.status, answer.json()["error"]["code"]) == (502, "upstream_error")
    assert b"ertificate" not in answer.body
    assert again.status == 502
    said = [event for event in events if event["event"] == "no TLS with an engine"]
    assert len(said) == 1  # and not one for each request
    assert why in said[0]["why"]
    assert bytes(edge.engine.wire) == b""


async def test_a_backend_that_refuses_the_proxy(start_edge: StartEdge, pki: Pki) -> None:
    """With TLS 1.3 that comes after the proxy's own handshake; its log says so, and theirs why."""
    own = pki.upstream(another(pki).pair("proxy", "proxy", stem="stranger"))
    theirs: list[str] = []
    with capture_logs() as events:
        listener = pki.control(refused=theirs.append).listener()
        edge = await start_edge(tls=Tls(listener, pki.engine().listener(), own), ready=False)
        assert await problem(edge, events) == f"ServerDisconnectedError: {tls.ENDED}"
    assert (await edge.chat()).status == 503
    assert len(theirs) == 1  # though it is asked again and again
    assert "unable to get local issuer certificate" in theirs[0]


async def test_an_engine_that_refuses_the_proxy(start_edge: StartEdge, pki: Pki) -> None:
    """Here too, and the caller learns nothing of it."""
    elsewhere = another(pki).server(pki.pair("engine", "gpu-0"))
    with capture_logs() as events:
        edge = await start_edge(tls=Tls(pki.control().listener(), elsewhere, pki.upstream()))
        answer = await edge.chat()
    assert answer.status in (502, 503)
    assert b"ertificate" not in answer.body
    said = [event["why"] for event in events if event["event"] == "no TLS with an engine"]
    assert said == [f"gpu-0, port {edge.engine.port}: {tls.ENDED}"]
    assert bytes(edge.engine.wire) == b""


async def test_a_proxy_without_tls(start_edge: StartEdge, pki: Pki) -> None:
    """A port that speaks TLS gives it no answer, and both logs say what that may be."""
    theirs: list[str] = []
    listener = pki.control(refused=theirs.append).listener()
    with capture_logs() as events:
        edge = await start_edge(tls=Tls(listener, pki.engine().listener(), None), ready=False)
        assert "does it speak TLS?" in await problem(edge, events)
    assert theirs == ["plain HTTP came to a port that speaks TLS: the other side's `tls` is not set"]


async def test_a_backend_without_tls(start_edge: StartEdge, pki: Pki) -> None:
    """It is told nothing, and the log says what it lacks."""
    ends = Tls(None, None, pki.upstream())
    with capture_logs() as events:
        edge = await start_edge(tls=ends, ready=False)
        assert "does not speak TLS" in await problem(edge, events)


class Wire:
    """Passes on what is said between two ends, and keeps all of it."""

    def __init__(self) -> None:
        self.heard = bytearray()
        self.port = 0
        self.target = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator["Wire"]:
        server = await asyncio.start_server(self._accepted, LOCAL, 0)
        self.port = server.sockets[0].getsockname()[1]
        yield self
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, here = await asyncio.open_connection(LOCAL, self.target)
        for source, sink in ((reader, here), (there, writer)):
            task = asyncio.create_task(self._pass_on(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                self.heard += data
                sink.write(data)
        except ConnectionError:
            pass
        finally:
            sink.close()


@pytest.mark.parametrize("secure", [False, True])
async def test_what_the_wire_shows(
    start_edge: StartEdge, pki: Pki, monkeypatch: pytest.MonkeyPatch, *, secure: bool
) -> None:
    """With TLS neither prompt nor answer, neither model nor grant nor token; without, all of that."""
    async with Wire().listening() as control, Wire().listening() as engine:

        def through(self: FakeBackend) -> str:
            control.target = self.port
            return f"http://{LOCAL}:{control.port}"

        monkeypatch.setattr(FakeBackend, "url", property(through))
        edge = await start_edge(tls=good(pki) if secure else None)
        edge.engine.always(completion("the answer of the oracle"))
        engine.target = edge.engine.port
        edge.backend.hosted[0].engine = cast("RawEngine", engine)
        await edge.backend.greeted(2)
        answer = await edge.chat("demo/public-lora", messages=[{"role": "user", "content": SECRET}])
        assert answer.status == 200
        assert b"oracle" in answer.body
        sent = edge.engine.requests[-1]
        assert SECRET.encode() in sent.body
        shown = [
            *(SECRET in found for found in (text(engine), text(control))),
            "oracle" in text(engine),
            (sent.header(GRANT_HEADER) or "?") in text(engine),
            GRANT_HEADER in text(control),
            "public-lora" in text(engine),
            '"token"' in text(control),
            ALICE in text(control) + text(engine),
        ]
        assert len(engine.heard) > 1000
        assert len(control.heard) > 1000
    # The caller's token is sealed for the backend in any case.
    assert shown == ([False] * 8 if secure else [True, False, True, True, True, True, True, False])


def text(wire: Wire) -> str:
    return wire.heard.decode("latin-1")


async def test_renewal_under_load(
    start_edge: StartEdge, pki: Pki, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nothing is lost while certificates are replaced, and then the authority; a stream goes on meanwhile."""
    monkeypatch.setattr(tls, "RECHECK", 0.01)
    edge = await start_edge(tls=good(pki))
    long = Stream(count=2)
    long.step()
    edge.engine.then(long)
    stream = await edge.sdk().chat.completions.create(model=BASE, messages=[], stream=True)
    first = edge.engine.handshakes
    answers: list[int] = []
    stopping = asyncio.Event()

    async def calls() -> None:
        while not stopping.is_set():
            answers.append((await edge.chat()).status)

    callers = [asyncio.create_task(calls()) for _ in range(4)]

    async def handshakes(more: int = 1) -> None:
        seen, asked = edge.engine.handshakes, len(answers)
        await edge.engine.until(lambda: edge.engine.handshakes >= seen + more)
        await edge.engine.until(lambda: len(answers) > asked + 4)

    def hand_out(authority: Pki) -> None:
        authority.pair("backend", "gpu-0")
        authority.pair("engine", "gpu-0")
        authority.pair("proxy", "proxy")

    hand_out(pki)
    await handshakes()
    new, old = Pki(tmp_path, "other"), pki.ca.read_bytes()
    pki.ca.write_bytes(old + new.ca.read_bytes())
    await handshakes()
    hand_out(new)
    await handshakes()
    pki.ca.write_bytes(new.ca.read_bytes())
    await handshakes()
    stopping.set()
    await asyncio.gather(*callers)
    long.finish()
    assert len([chunk async for chunk in stream]) == 2
    assert set(answers) == {200}
    assert edge.engine.handshakes > first
    # And who still has a certificate of the old one is refused now.
    stranger = pki.client(pki.pair("proxy", "proxy", stem="old"))
    stranger.load_verify_locations(new.ca)
    refused = await knock(edge.engine.port, stranger)
    assert refused


async def knock(port: int, context: ssl.SSLContext) -> bool:
    """Whether somebody with this context is turned away."""
    try:
        reader, writer = await asyncio.open_connection(LOCAL, port, ssl=context, server_hostname="gpu-0")
        writer.write(b"GET /health HTTP/1.1\r\n\r\n")
        async with asyncio.timeout(2):
            said = await reader.read(1)
    except TimeoutError:
        return False
    except OSError:
        return True
    writer.close()
    return not said


async def test_half_of_a_pair_is_left_alone(
    start_edge: StartEdge, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the other half is there too, the old pair is shown, and the fault is known."""
    monkeypatch.setattr(tls, "RECHECK", 0.0)
    edge = await start_edge(tls=good(pki))
    other = pki.pair("proxy", "proxy", stem="other")
    files = edge.checked.upstream_tls["gpu-0"]
    before = files.context("engine")
    (pki.folder / "proxy-proxy.key").write_bytes(other.key.read_bytes())
    assert files.context("engine") is before
    assert "no certificate of the key" in (files.fault or "")
    assert (await edge.chat()).status == 200
    (pki.folder / "proxy-proxy.pem").write_bytes(other.certificate.read_bytes())
    assert files.context("engine") is not before
    assert files.fault is None


async def test_heartbeats_and_a_late_answer(start_edge: StartEdge, pki: Pki) -> None:
    """A cold start with its heartbeats, and then a stream, all with TLS."""
    edge = await start_edge({"cold_start": {"heartbeat_after": 0.02}}, tls=good(pki))
    held = Held(edge.backend.make_warm)
    edge.backend.then(held)
    stream = Stream(count=50).finish()
    edge.engine.then(stream)
    body = {"model": "demo/public-lora", "messages": [], "stream": True}
    async with RawClient.connect(edge.port) as client:
        token = ("Authorization", f"Bearer {ALICE}")
        await client.send(request("POST", CHAT, [token], msgspec.json.encode(body)))
        await held.waiting.wait()
        await client.until(b": hubgate")
        held.release()
        seen = await client.until(b"data: [DONE]")
    assert seen.count(b"data: {") == 50


async def test_a_caller_who_leaves(start_edge: StartEdge, pki: Pki) -> None:
    """The engine hears of it with TLS too."""
    edge = await start_edge(tls=good(pki))
    held = Stream(count=1)
    held.step()
    edge.engine.then(held)
    stream = await edge.sdk().chat.completions.create(model=BASE, messages=[], stream=True)
    assert len(edge.engine.connections) == 1
    await stream.close()
    await edge.engine.until(lambda: not edge.engine.connections)
