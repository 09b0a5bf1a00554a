"""A least rate: who keeps to it is waited for as long as they like, and nobody else is."""

from collections.abc import Iterable

from hubgate.proxy.net.pace import Pace
from tests.cases import each

RATE, MOST = 1000, 15.0
Steps = Iterable[tuple[float, int]]  # seconds of waiting, and bytes that came after them


def lasts(steps: Steps) -> float:
    """For how many seconds somebody was waited for who does this."""
    pace, waited = Pace(RATE, MOST), 0.0
    for seconds, moved in steps:
        if seconds >= pace.left:
            return waited + pace.left
        waited += seconds
        pace.waited(seconds, moved)
    return waited


HOUR = 3600


@each(
    ("seconds", "moved"),
    [(1, RATE), (0.001, 1), (14, 14 * RATE), (10, 64 * 1024), (0.1, 1460)],
)
def test_who_keeps_to_it_may_go_on(seconds: float, moved: int) -> None:
    """However it is spread: evenly, or in bursts after pauses that are not too long."""
    steps = [(seconds, moved)] * int(HOUR / seconds)
    assert lasts(steps) > HOUR - 2 * MOST


@each(
    ("seconds", "moved"),
    [(9, 1), (14.9, 1), (1, RATE // 2), (0.01, 1), (14.9, RATE), (0.5, 1)],
)
def test_who_is_slower_runs_out_of_it(seconds: float, moved: int) -> None:
    """Whatever the pauses are: a byte each nine seconds is as good as none."""
    assert lasts([(seconds, moved)] * 100_000) < 3 * MOST


def test_a_burst_pays_for_no_long_stall() -> None:
    """What was sent at once before is not worth more than one pause."""
    assert lasts([(0, 30_000_000), (20, 1)]) == MOST
    assert lasts([(0, 30_000_000), *[(9, 1)] * 1000]) < 2 * MOST


def test_nothing_is_earned_by_what_was_not_waited_for() -> None:
    """Time in which nobody waits costs nothing either."""
    pace = Pace(RATE, MOST)
    pace.waited(0, 10**9)
    assert pace.left == MOST
    pace.waited(5, 0)
    pace.waited(0, 2 * RATE)
    assert pace.left == MOST - 3
