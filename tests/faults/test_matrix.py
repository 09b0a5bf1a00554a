"""Every cell of the fault matrix ends as `expected.yaml` says."""

from pathlib import Path
from typing import get_args

import pytest

from tests.faults import cell
from tests.faults.caller import Outcome, Temperature
from tests.faults.cell import EXPECTED
from tests.faults.conftest import Calm
from tests.faults.faults import FAULTS

TEMPERATURES: tuple[Temperature, ...] = get_args(Temperature)


def test_the_table_is_whole() -> None:
    """Each fault at each temperature, and nothing else."""
    assert EXPECTED.keys() == FAULTS.keys()
    assert all(tuple(row) == TEMPERATURES for row in EXPECTED.values())


def _alone(fault: str, temperature: Temperature) -> bool:
    """Whether the cell takes a stack of its own: to be cold, or for other settings."""
    return temperature != "all warm" or bool(FAULTS[fault].engines)


CELLS = [(fault, temperature) for fault in FAULTS for temperature in TEMPERATURES]


def _check(fault: str, temperature: Temperature, outcome: Outcome) -> None:
    expected = EXPECTED[fault][temperature]
    assert expected.backoff or not outcome.backoff, fault
    assert outcome in (expected, expected.at_once()), fault


@pytest.mark.parametrize(("fault", "temperature"), [one for one in CELLS if _alone(*one)])
async def test_a_fault_is_told_leaves_nothing_and_heals(
    fault: str, temperature: Temperature, tmp_path: Path, repos: Path, calm: Calm
) -> None:
    """It fires, the caller is told what the table says, and the next good request is served."""
    outcome = await cell.run(fault, temperature, tmp_path, repos, await calm(temperature))
    _check(fault, temperature, outcome)


@pytest.mark.timeout(360)  # eleven cells
async def test_a_warm_stack_heals_from_one_fault_after_the_other(
    tmp_path: Path, repos: Path, calm: Calm
) -> None:
    """The same where all is warm, in one stack, which is after each fault what it was before."""
    faults = [fault for fault, temperature in CELLS if not _alone(fault, temperature)]
    outcomes = await cell.run_all(faults, "all warm", tmp_path, repos, await calm("all warm"))
    for fault, outcome in zip(faults, outcomes, strict=True):
        _check(fault, "all warm", outcome)
