"""More connections than the process has descriptors for: who is known is served, and the log tells."""

import asyncio
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from hubgate.proxy.http.connection_limit import RESERVE, most_connections
from tests.fakes.certificates import Authority
from tests.fakes.engine import LOCAL
from tests.fakes.raw import RawClient, request
from tests.fakes.running_proxy import ALICE, BOB, Edge, eventually
from tests.threats.process import ProxyProcess, proxy_process

DESCRIPTORS = 256
MOST = most_connections(DESCRIPTORS)
NOBODY = request("GET", "/v1/models")
EVENT = "too many connections: the oldest that never authenticated go, then new ones are refused"


def models(token: str) -> bytes:
    return request("GET", "/v1/models", [("Authorization", f"Bearer {token}")])


async def connect(stack: AsyncExitStack, proxy: ProxyProcess, sent: bytes = b"") -> RawClient:
    """One more connection; whether it is kept is the proxy's business."""
    client = await stack.enter_async_context(RawClient.connect(proxy.port))
    await client.send(sent)
    return client


async def served(client: RawClient, token: str = ALICE) -> bool:
    await client.send(models(token))
    return (await client.answer()).raw.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("sent", [b"", NOBODY, b"GET /v1/models HT"], ids=["silent", "refused", "half"])
async def test_three_hundred_connections_of_nobody(edge: Edge, sent: bytes) -> None:
    """They push out each other; a known caller keeps a connection, and gets a new one."""
    async with proxy_process(edge, limits=[f"-n {DESCRIPTORS}"]) as proxy, AsyncExitStack() as stack:
        known = await connect(stack, proxy)
        assert await served(known)
        crowd = [await connect(stack, proxy, sent) for _ in range(300)]
        assert await served(known)
        assert await served(await connect(stack, proxy))
        assert await served(await connect(stack, proxy), BOB)
        logged = await proxy.logged(EVENT)
        assert (logged["most"], logged["most_of_one_client"]) == (MOST, MOST // 2)
        assert logged["evicted"] == 1
        gone = [await client.rest() for client in crowd[: 300 - MOST]]  # the oldest ones
        assert all(answer.startswith(b"HTTP/1.1 401") or not answer for answer in gone)
        # Beside the callers' there are few descriptors in use: the reserve is a reserve.
        assert await samples(proxy, "process_open_fds") < DESCRIPTORS - RESERVE // 2


async def test_three_hundred_connections_of_one_caller(edge: Edge) -> None:
    """Those up to its share stay and are served; one more is closed, and everything else goes on."""
    async with proxy_process(edge, limits=[f"-n {DESCRIPTORS}"]) as proxy, AsyncExitStack() as stack:
        kept = []
        for _ in range(MOST // 2):
            kept.append(await connect(stack, proxy))
            assert await served(kept[-1])
        for _ in range(300 - len(kept)):
            client = await connect(stack, proxy)
            assert await client.rest() == b""
        assert all([await served(client) for client in kept])
        logged = await proxy.logged(EVENT)
        assert (logged["refused"], logged["client"]) == (1, "127.0.0.1")
        assert await samples(proxy, "hubgate_dropped_connections_total") == 300 - len(kept)
        kept.pop().leave()

        async def again() -> bool:
            return await served(await connect(stack, proxy))

        await eventually(again)


async def test_a_burst_beyond_all_descriptors(edge: Edge) -> None:
    """Who connects while the process has no turn is accepted in one go; it goes on listening all the same."""
    async with proxy_process(edge, limits=[f"-n {DESCRIPTORS}"]) as proxy, AsyncExitStack() as stack:
        known = await connect(stack, proxy)
        assert await served(known)
        proxy.process.send_signal(signal.SIGSTOP)
        try:
            for _ in range(2 * DESCRIPTORS):
                await connect(stack, proxy)
        finally:
            proxy.process.send_signal(signal.SIGCONT)
        assert await served(known)
        assert (await proxy.logged(EVENT))["most"] == MOST
        assert await served(await connect(stack, proxy))
        assert await served(await connect(stack, proxy), BOB)


async def test_a_load_balancer_may_have_all(edge: Edge) -> None:
    """A trusted peer stands for many clients: the bound is that of all."""
    listen = {"listen": {"host": "127.0.0.1", "port": 0, "trusted_proxies": ["127.0.0.0/8"]}}
    few = [f"-n {DESCRIPTORS}"]
    async with proxy_process(edge, limits=few, **listen) as proxy, AsyncExitStack() as stack:
        kept = [await connect(stack, proxy) for _ in range(MOST)]
        assert all([await served(client) for client in kept])
        assert await (await connect(stack, proxy)).rest() == b""


async def test_the_soft_limit_is_raised(edge: Edge) -> None:
    """What the system allows is used, whatever the shell's default is."""
    async with proxy_process(edge, limits=["-Sn 200", "-Hn 1000"]) as proxy:
        assert await samples(proxy, "process_max_fds") == 1000
        line = next(line for line in proxy.said.splitlines() if b'"connections"' in line)
        assert b'"most": %d,' % most_connections(1000) in line


async def samples(proxy: ProxyProcess, name: str) -> float:
    """The sum of a metric's samples."""
    async with RawClient.connect(proxy.admin_port) as client:
        await client.send(request("GET", "/metrics"))
        text = (await client.answer("GET")).body.decode()
    found = [line.rpartition(" ") for line in text.splitlines()]
    return sum(float(value) for series, _, value in found if series.partition("{")[0] == name)


async def test_handshakes_that_never_come(edge: Edge, tmp_path: Path) -> None:
    """Who connects to a port with TLS and says nothing is a stranger like any other."""
    authority = Authority()
    listen = {"listen": {"host": "127.0.0.1", "port": 0, "tls": authority.issue(tmp_path)}}
    few = [f"-n {DESCRIPTORS}"]
    async with proxy_process(edge, limits=few, **listen) as proxy, AsyncExitStack() as stack:

        async def secured() -> RawClient:
            reader, writer = await asyncio.open_connection(LOCAL, proxy.port, ssl=authority.trusted())
            stack.callback(writer.close)
            return RawClient(reader, writer)

        known = await secured()
        assert await served(known)
        crowd = [await connect(stack, proxy) for _ in range(300)]
        for silent in crowd[: 300 - MOST]:
            assert await silent.rest() == b""
        assert await served(known)
        assert await served(await secured())
        assert await samples(proxy, "process_open_fds") < DESCRIPTORS - RESERVE // 2
        assert (await proxy.logged(EVENT))["most_of_one_client"] == MOST // 2
