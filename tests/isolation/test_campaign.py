"""Nobody gets what their own token may not read, and everybody gets what it may, whatever happens."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.isolation import bugs, campaign, plan
from tests.isolation.report import Report

SEED = 20  # the report of a failure names its seed: put that one here to see it again
ATTEMPTS = 5_000  # in which each planted mistake is found; `make test-long` makes twenty times as many
LONG_SEEDS = (101, 102, 103, 104)


def _check(report: Report, record: Callable[[str, object], None]) -> None:
    record("campaign", report.told())
    print(report.told())  # noqa: T201 - the numbers of a run, shown by pytest -s
    assert not report.faults, report.told()
    assert report.share("served") >= 0.3, report.told()
    assert report.share("refused") >= 0.3, report.told()
    assert report.in_window <= 0.1, report.told()


async def test_nobody_is_wrongly_served_or_refused(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """In 5,000 attempts amid revocations, gates, leaps of time and outages every answer is right."""
    _check(await campaign.run(tmp_path, SEED, ATTEMPTS), record_property)


@pytest.mark.long("isolation")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", LONG_SEEDS)
async def test_a_long_campaign(
    tmp_path: Path, record_property: Callable[[str, object], None], seed: int
) -> None:
    """In four times 25,000 attempts of other seeds every answer is right."""
    _check(await campaign.run(tmp_path, seed, 25_000), record_property)


@pytest.mark.inside
@pytest.mark.parametrize(
    "bug",
    [
        bugs.access_by_repo_alone,
        bugs.warm_skips_authorization,
        bugs.identity_by_token_prefix,
        bugs.a_load_stretches_the_bound,
    ],
)
async def test_the_campaign_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bug: Callable[[pytest.MonkeyPatch], None]
) -> None:
    """A proxy with a well-known mistake in it is caught serving whom it must not, and the report says so."""
    bug(monkeypatch)
    report = await campaign.run(tmp_path, SEED, ATTEMPTS, until="wrongly served")
    assert report.kinds["wrongly served"] >= 1, report.told()
    (fault,) = [fault for fault in report.faults if fault.startswith("wrongly served")][:1]
    for said in (f"seed {SEED}", "step ", "asked for", "token "):
        assert said in fault


def test_a_step_is_decided_by_its_seed_alone() -> None:
    """What a report names can be run again: the same seed and number give the same step."""
    assert [plan.step(7, n) for n in range(50)] == [plan.step(7, n) for n in range(50)]
    assert plan.step(7, 1) != plan.step(8, 1)
