"""The proxy's own Hub client and whom it knows, for each test that asks for one."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hubgate.proxy.auth.accounts import Accounts
from hubgate.proxy.auth.name_book import NameBook
from hubgate.proxy.metrics.registry import Metrics
from hubgate.proxy.settings import Callers, Limits
from tests.fakes.hub_client import client, clock, hub, make_client, metrics, rogue, rogue_client

__all__ = ("accounts", "client", "clock", "hub", "make_client", "metrics", "rogue", "rogue_client")


@pytest.fixture
async def accounts(tmp_path: Path, metrics: Metrics) -> AsyncIterator[Accounts]:
    """Accounts where nobody is listed by name."""
    book = NameBook(tmp_path / "names")
    yield Accounts(book, None, metrics.name_conflicts, Callers(anyone=True), Limits())
    await book.close()
