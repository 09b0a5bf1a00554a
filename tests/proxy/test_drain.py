"""threats.md, row 43: a proxy that is told to stop ends what is under way and takes nothing new."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.fakes.answers import Stream
from tests.fakes.engine import LOCAL, PATIENCE
from tests.fakes.process import ProxyProcess
from tests.fakes.raw import RawClient, ask, request
from tests.fakes.running_proxy import ALICE, BASE, CHAT, Edge, eventually
from tests.proxy.conftest import StartEdge

STREAMS = 20
AUTH = ("Authorization", f"Bearer {ALICE}")
ASKED = request("POST", CHAT, [AUTH], b'{"model":"%s","messages":[],"stream":true}' % BASE.encode())
LONG_DRAIN = {"timeouts": {"drain": PATIENCE}}


@pytest.fixture
async def proxy(tmp_path: Path) -> AsyncIterator[ProxyProcess]:
    """A process with time to end."""
    async with ProxyProcess.start(tmp_path, LONG_DRAIN) as running:
        yield running


async def test_sigterm_ends_no_stream_and_takes_no_request(proxy: ProxyProcess) -> None:
    """Streams go on to their end; kept connections get 503 and are closed; new ones are refused."""
    streams = [Stream() for _ in range(STREAMS)]
    async with AsyncExitStack() as stack:
        kept = await stack.enter_async_context(RawClient.connect(proxy.port))
        await kept.send(request("GET", "/health"))
        assert (await kept.answer()).status == 200
        callers = [await stack.enter_async_context(RawClient.connect(proxy.port)) for _ in streams]
        for count, (caller, stream) in enumerate(zip(callers, streams, strict=True), 1):
            proxy.engine.then(stream)
            await caller.send(ASKED)
            await proxy.engine.received(count)
            stream.step()

        proxy.process.send_signal(signal.SIGTERM)
        await proxy.logged("stopping")
        await kept.send(request("GET", "/v1/models", [AUTH]))
        refused = await kept.answer()
        assert (refused.status, refused.code) == (503, "draining")
        assert 1 <= int(refused.header("Retry-After") or 0) <= 120
        assert refused.header("Connection") == "close"
        assert await kept.rest() == b""
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(LOCAL, proxy.port)
        unready = await ask(proxy.admin_port, request("GET", "/readyz"))
        assert (unready.status, unready.body) == (503, b"draining\n")

        for caller, stream in zip(callers, streams, strict=True):
            stream.finish()
            answer = await caller.answer()
            assert (answer.status, answer.complete, answer.body) == (200, True, bytes(stream.sent))
    async with asyncio.timeout(PATIENCE):
        assert await proxy.process.wait() == 0
    assert len(proxy.engine.requests) == STREAMS
    assert "Traceback" not in proxy.said


async def test_an_idle_proxy_ends_at_once(proxy: ProxyProcess) -> None:
    """Nothing under way, nothing to wait for: kept connections are closed and the process ends."""
    async with RawClient.connect(proxy.port) as kept:
        await kept.send(request("GET", "/health"))
        assert (await kept.answer()).status == 200
        proxy.process.send_signal(signal.SIGTERM)
        assert await kept.rest() == b""
        async with asyncio.timeout(PATIENCE / 2):  # half of what a drain may take
            assert await proxy.process.wait() == 0


async def test_a_drain_ends(start_edge: StartEdge) -> None:
    """A request that does not end within `timeouts.drain` is cut, and does not look complete."""
    edge: Edge = await start_edge({"timeouts": {"drain": 0.05}})
    stream = Stream()
    edge.engine.then(stream)
    async with RawClient.connect(edge.port) as caller:
        await caller.send(ASKED)
        stream.step()
        await caller.until(b"\n\n")
        await edge.stop()
        assert b"0\r\n\r\n" not in await caller.rest()


async def test_every_endpoint_is_drained(start_edge: StartEdge) -> None:
    """Also the public probe says no, so that load balancers look elsewhere; unknown paths stay unknown."""
    edge: Edge = await start_edge(LONG_DRAIN)
    stream = Stream()
    edge.engine.then(stream)
    async with AsyncExitStack() as stack:
        targets = {"/health": 503, "/v1/models": 503, f"/v1/models/{BASE}": 503, "/nowhere": 404}
        kept = {target: await stack.enter_async_context(RawClient.connect(edge.port)) for target in targets}
        for client in kept.values():
            await client.send(request("GET", "/health"))
            assert (await client.answer()).status == 200
        caller = await stack.enter_async_context(RawClient.connect(edge.port))
        await caller.send(ASKED)
        await edge.engine.received(1)
        stopping = asyncio.create_task(edge.stop())

        async def draining() -> bool:
            return (await edge.admin("/readyz"))[0] == 503

        await eventually(draining)
        for target, client in kept.items():
            await client.send(request("GET", target, [AUTH]))
            assert (await client.answer()).status == targets[target]
        stream.finish()
        assert (await caller.answer()).complete
        await stopping
