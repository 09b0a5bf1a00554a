"""Nobody gets what their own token may not read, and each gets the right model: on the real engine."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.campaign import campaign
from tests.e2e.product import Product


# The report of a failure names its seed and step.
@pytest.mark.parametrize(
    ("seed", "attempts"), [(8, 100), pytest.param(17, 300, marks=pytest.mark.long("engine"))]
)
async def test_rows_17_and_20_a_campaign_on_the_real_engine(
    seed: int,
    attempts: int,
    product: Product,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """In attempts amid revocations, gates, new commits and outages: none wrongly served or refused.

    Every answer is the greedy text of the very model that was asked for, at a commit that its name meant.
    """
    async with campaign(product, tmp_path, seed) as running:
        report = await running.run(attempts)
    record_property("campaign", report.told())
    print(report.told())  # noqa: T201 - the numbers of a run, shown by pytest -s
    assert not report.faults, report.told()
    assert report.attempts >= attempts
    assert report.share("served") >= 0.3, report.told()
    assert report.share("refused") >= 0.3, report.told()
    assert report.kinds["unavailable"] >= 1, report.told()
    assert report.in_window <= 0.35, report.told()
