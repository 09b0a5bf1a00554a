"""What counts as ours of an adapter's first request."""

import pytest

from bench.cold import Times, summary


def test_download_engine_and_answer_are_taken_off() -> None:
    """What is left of the first request is ours, for each adapter before the median is taken."""
    times = [
        Times(first=0.100 * n, again=0.010 * n, bare=0.040 * n, engine=0.020 * n, parts={}) for n in (1, 2, 3)
    ]
    found = summary(times)
    assert found["cold_adapter"] == pytest.approx(60)
    assert found["cold_adapter_ratio"] == pytest.approx(100 / 70)
    assert found["cold_adapter_bare"] == pytest.approx(80)
