"""Where the demo Hub keeps its files, and what a stack holds that met no fault."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.faults import cell
from tests.faults.caller import Temperature
from tests.faults.footprint import Footprint

Calm = Callable[[Temperature], Awaitable[Footprint]]


@pytest.fixture(scope="session")
def repos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once, read by every demo Hub after that."""
    return tmp_path_factory.getbasetemp() / "repos"


@pytest.fixture(scope="session")
def calm(tmp_path_factory: pytest.TempPathFactory, repos: Path) -> Calm:
    """Measured once for each temperature."""
    known: dict[Temperature, Footprint] = {}

    async def measured(temperature: Temperature) -> Footprint:
        if temperature not in known:
            known[temperature] = await cell.calm(temperature, tmp_path_factory.mktemp("calm"), repos)
        return known[temperature]

    return measured
