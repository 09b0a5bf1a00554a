"""A demo Hub, and a backend that takes its models from there and gives them to fake engines."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hubgate.demo.hub import DemoHub
from tests.backend.harness import Running, running


@pytest.fixture
async def hub(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DemoHub]:
    async with DemoHub.start(repos=tmp_path_factory.getbasetemp() / "repos") as started:
        yield started


@pytest.fixture
async def backend(tmp_path: Path, hub: DemoHub) -> AsyncIterator[Running]:
    async with running(tmp_path, hub) as started:
        yield started
