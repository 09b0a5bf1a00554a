"""What Hubgate adds to a real engine, from rounds on both sides."""

import pytest

from bench.load import Seen
from bench.real_vllm import Added, added


def test_what_is_added_is_the_median_difference() -> None:
    """A round in which the engine was slow on both sides does not count as Hubgate's."""
    rounds = [
        (Seen(p50=0.010, p99=0.020), Seen(p50=0.011, p99=0.022)),
        (Seen(p50=0.500, p99=0.900), Seen(p50=0.501, p99=0.902)),
        (Seen(p50=0.010, p99=0.020), Seen(p50=0.012, p99=0.023)),
    ]
    expected = Added(direct_p50=10, direct_p99=20, through_p50=12, through_p99=23, added_p50=1, added_p99=2)
    found = added(rounds)
    for name in Added.__slots__:
        assert getattr(found, name) == pytest.approx(getattr(expected, name))
