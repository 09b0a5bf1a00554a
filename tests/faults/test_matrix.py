"""Every cell of the fault matrix ends as `expected.yaml` says."""

from pathlib import Path
from typing import get_args

import pytest

from tests.faults import cell
from tests.faults.caller import Temperature
from tests.faults.cell import EXPECTED
from tests.faults.conftest import Calm
from tests.faults.faults import FAULTS

TEMPERATURES: tuple[Temperature, ...] = get_args(Temperature)


def test_the_table_is_whole() -> None:
    """Each fault at each temperature, and nothing else."""
    assert EXPECTED.keys() == FAULTS.keys()
    assert all(tuple(row) == TEMPERATURES for row in EXPECTED.values())


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_is_told_leaves_nothing_and_heals(
    fault: str, temperature: Temperature, tmp_path: Path, repos: Path, calm: Calm
) -> None:
    """It fires, the caller is told what the table says, and the next good request is served."""
    expected = EXPECTED[fault][temperature]
    outcome = await cell.run(fault, temperature, tmp_path, repos, await calm(temperature))
    assert expected.backoff or not outcome.backoff
    assert outcome == expected or outcome == expected.at_once()
