"""Mutated requests of every endpoint, judged by h11 and a strict engine: none stops the proxy."""

from collections.abc import Callable
from pathlib import Path

import pytest

from hubgate.proxy.endpoints import ENDPOINTS
from tests.fuzz import campaign, mutations

SEED = 1
LONG_SEEDS = range(101, 121)


@pytest.fixture(autouse=True)
def _an_abort_leaves_its_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the log of the proxy."""
    monkeypatch.setenv("PYTHONFAULTHANDLER", "1")


async def _check(folder: Path, seed: int, requests: int, record: Callable[[str, object], None]) -> None:
    report = await campaign.run(folder, seed, requests)
    record("campaign", report.told())
    print(report.told())  # noqa: T201 - the numbers of a run, shown by pytest -s
    assert not report.faults, report.told()
    assert report.requests >= requests
    # Every way through the proxy was gone to its end, and many of the requests went one.
    assert report.routes.keys() == {path for path, one in ENDPOINTS.items() if one.fields is not None}
    assert report.routes.total() >= requests / 10
    assert len(report.answered) >= 10


@pytest.mark.timeout(600)
async def test_mutated_requests(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """Of 50,000 none ends it, hangs it, is a fault of ours, or is read otherwise than h11 reads it."""
    await _check(tmp_path, SEED, 50_000, record_property)


@pytest.mark.long("mutated")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", LONG_SEEDS)
async def test_many_mutated_requests(
    tmp_path: Path, record_property: Callable[[str, object], None], seed: int
) -> None:
    """Nor of a million, 50,000 of each of twenty seeds."""
    await _check(tmp_path, seed, 50_000, record_property)
    (tmp_path / "audit.jsonl").unlink()  # some 20 MB of each


def test_an_input_is_made_by_its_seed_and_number_alone() -> None:
    """What a report names can be sent again."""
    assert [mutations.made(7, n) for n in range(50)] == [mutations.made(7, n) for n in range(50)]
    assert mutations.made(7, 1) != mutations.made(8, 1)
