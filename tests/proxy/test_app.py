"""A whole proxy: how it starts without a backend, and how it ends with requests under way."""

import asyncio
from contextlib import AsyncExitStack
from importlib.metadata import version
from pathlib import Path

import pytest

from hubgate.proxy import gateway
from hubgate.runtime.config import ConfigError
from tests.fakes.answers import Stream, silent
from tests.fakes.raw import RawClient
from tests.fakes.running_proxy import ALICE, BASE, CHAT, MESSAGES, Edge
from tests.proxy.conftest import StartEdge


async def test_it_serves_before_a_backend_is_there(start_edge: StartEdge) -> None:
    """Without a backend the proxy runs, is not ready, and says 503 to who asks."""
    edge = await start_edge(ready=False)
    await edge.backend.down()
    await edge.until_down()
    assert await edge.admin("/livez") == (200, "alive\n")
    assert (await edge.chat()).code == "no_upstream"
    assert await edge.metric("hubgate_upstream_up") == 0


async def test_it_tells_what_runs(start_edge: StartEdge) -> None:
    """Which build, and what it takes of the machine, by the names that Prometheus' own libraries use."""
    edge, built = await start_edge(), not gateway.__file__.endswith(".py")
    labels = {"version": version("hubgate"), "compiled": str(built).lower()}
    assert await edge.metric("hubgate_build_info", **labels) == 1
    assert await edge.metric("process_resident_memory_bytes") > 0
    assert await edge.metric("process_open_fds") > 0


async def test_fields_for_an_endpoint_that_is_none(start_edge: StartEdge) -> None:
    """A slip in `request.extra_fields` is told at start, and not found out by callers."""
    with pytest.raises(ConfigError, match="/v1/chat is no endpoint"):
        await start_edge({"request": {"extra_fields": {"/v1/chat": ["x"], CHAT: ["y"]}}})


async def test_requests_under_way_end_well(tmp_path: Path) -> None:
    """When the proxy is told to stop, a stream goes on to its end and nobody new is let in."""
    stream = Stream(count=5)
    async with AsyncExitStack() as stack:
        edge = await stack.enter_async_context(Edge.start(tmp_path, {"timeouts": {"drain": 10}}))
        edge.engine.then(stream)
        asking = asyncio.create_task(edge.post(CHAT, {"model": BASE, "messages": MESSAGES, "stream": True}))
        await edge.engine.received(1)
        stream.step()
        stopping = asyncio.create_task(edge.stop())

        async with asyncio.timeout(10):
            while True:
                try:
                    async with RawClient.connect(edge.port) as late:
                        await late.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
                        if not await late.read():
                            break
                except OSError:
                    break
        stream.finish()
        answer = await asking
        await stopping
    assert answer.complete
    assert answer.body == bytes(stream.sent)


async def test_requests_that_do_not_end_are_cut(tmp_path: Path) -> None:
    """After `timeouts.drain` seconds the proxy ends all the same, and the audit tells of who was cut off."""
    async with Edge.start(tmp_path, {"timeouts": {"drain": 0.1}}) as edge:
        edge.engine.then(silent())
        asking = asyncio.create_task(edge.chat(token=ALICE))
        await edge.engine.received(1)
        await edge.stop()
        answer = await asking
        assert not answer.complete
        (record,) = await edge.records(1)
        assert (record["status"], record["reason"]) == (499, "client_left")


async def test_idle_connections_do_not_hold_it_up(tmp_path: Path) -> None:
    """Connections that are kept open without a request are closed when the proxy stops."""
    async with (
        Edge.start(tmp_path, {"timeouts": {"drain": 30}}) as edge,
        RawClient.connect(edge.port) as client,
    ):
        await client.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await client.answer()).status == 200
        async with asyncio.timeout(10):
            await edge.stop()
        assert await client.rest() == b""


async def test_a_trail_of_another_proxy_is_a_fault(
    tmp_path_factory: pytest.TempPathFactory, start_edge: StartEdge
) -> None:
    """Two proxies do not write one audit file: the second does not start."""
    edge = await start_edge()
    second = tmp_path_factory.mktemp("second")
    path = str(edge.settings.audit.path)
    with pytest.raises(ConfigError, match="another proxy"):
        async with Edge.start(second, {"audit": {"path": path}}):
            pytest.fail("it started")
    assert (await edge.chat()).status == 200
