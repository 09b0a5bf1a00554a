"""A running proxy, or a Redis, for each test that asks for one."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.redis import Redis
from tests.fakes.running_proxy import Edge

StartEdge = Callable[..., Awaitable[Edge]]


@pytest.fixture
async def edge(tmp_path: Path) -> AsyncIterator[Edge]:
    """A proxy with default settings, whose engine holds the base."""
    async with Edge.start(tmp_path) as running:
        yield running


@pytest.fixture
async def start_edge(tmp_path: Path) -> AsyncIterator[StartEdge]:
    """Starts a proxy with settings of the test's own; see `Edge.start`."""
    async with AsyncExitStack() as stack:

        async def start(settings: dict[str, Any] | None = None, **how: Any) -> Edge:
            return await stack.enter_async_context(Edge.start(tmp_path, settings, **how))

        yield start


@pytest.fixture
def redis_password() -> str | None:
    """None, unless a module says otherwise by a fixture of this name."""
    return None


@pytest.fixture
async def redis(tmp_path: Path, redis_password: str | None) -> AsyncIterator[Redis]:
    """A real Redis of the test's own."""
    folder = tmp_path / "redis"
    folder.mkdir()
    async with Redis.start(folder, redis_password) as running:
        yield running
