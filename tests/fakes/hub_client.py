"""The proxy's own Hub client, against the demo Hub or against a server that says what it is told to."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest

from hubgate.demo.hub import DemoHub
from hubgate.proxy.errors import Denied
from hubgate.proxy.hub.client import HubClient
from hubgate.proxy.hub.errors import HubErrors
from hubgate.proxy.hub.histories import Histories
from hubgate.proxy.hub.transport import HubTransport
from hubgate.proxy.metrics.registry import Metrics
from hubgate.wire.repo import RepoRef
from hubgate.wire.secret import Secret
from tests.fakes.clock import Clock
from tests.fakes.engine import LOCAL, RawEngine

MakeClient = Callable[..., HubClient]

BASE = RepoRef.parse("demo/tiny-llama")
PRIVATE = RepoRef.parse("alice/pirate-lora")
PUBLIC = RepoRef.parse("demo/public-lora")


def code(answer: object) -> str:
    """The code of a refusal, or the kind of an answer."""
    return answer.code if isinstance(answer, Denied) else type(answer).__name__


async def in_history(client: HubClient, token: Secret, repo: RepoRef, sha: str) -> bool | Denied:
    """Whether a commit is in a history of which nothing is known yet."""
    return await histories(client, Clock()).holds(token, repo, sha, "")


def histories(client: HubClient, clock: Clock) -> Histories:
    """With lives as by default."""
    return Histories(client, clock, life=900, fresh=2.5)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def hub() -> AsyncIterator[DemoHub]:
    """A demo Hub."""
    async with DemoHub.start() as running:
        yield running


@pytest.fixture
async def rogue() -> AsyncIterator[RawEngine]:
    """A server in the Hub's place that answers with any bytes."""
    async with RawEngine.start() as running:
        yield running


@pytest.fixture
async def make_client(clock: Clock, metrics: Metrics) -> AsyncIterator[MakeClient]:
    """Makes clients of a Hub by its address, the seconds for a question, and what a transport takes."""
    async with AsyncExitStack() as stack:

        def make(url: str, timeout: float = 20, **more: Any) -> HubClient:
            cookies = aiohttp.DummyCookieJar()
            session = aiohttp.ClientSession(
                cookie_jar=cookies, auto_decompress=False, timeout=aiohttp.ClientTimeout(total=timeout)
            )
            stack.push_async_callback(session.close)
            return HubClient(HubTransport(session, url, metrics, clock, b"q" * 32, **more), HubErrors(url))

        yield make


@pytest.fixture
async def client(hub: DemoHub, make_client: MakeClient) -> HubClient:
    """A client of the demo Hub."""
    return make_client(hub.endpoint)


@pytest.fixture
async def rogue_client(rogue: RawEngine, make_client: MakeClient) -> HubClient:
    """A client of the rogue."""
    return make_client(f"http://{LOCAL}:{rogue.port}")
