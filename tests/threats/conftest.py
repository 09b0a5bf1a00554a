"""A running proxy between a demo Hub and fake engines; see `tests/fakes/running_proxy.py`."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes.running_proxy import Edge


@pytest.fixture
async def edge(tmp_path: Path) -> AsyncIterator[Edge]:
    """A proxy with default settings, whose engine holds the base."""
    async with Edge.start(tmp_path) as running:
        yield running
