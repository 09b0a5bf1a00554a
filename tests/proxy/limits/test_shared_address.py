"""Many callers at one address are noticed."""

import structlog

from hubgate.proxy.limits.shared_address import MOST, PAUSE, SAMPLE, SharedAddress
from tests.cases import each
from tests.fakes.clock import Clock


def traffic(watch: SharedAddress, same: int, callers: int = 2) -> None:
    """One sample, of which so many requests come from one address, by so many callers; those come first."""
    for number in range(SAMPLE):
        client = "10.0.0.1" if number < same else f"203.0.113.{number % 250}"
        watch.seen(client, str(number % callers))


@each(
    ("same", "callers", "warned"),
    [
        (SAMPLE, 2, True),
        (MOST + 1, 2, True),
        (MOST, 2, False),
        (1, 2, False),
        (SAMPLE, 1, False),
    ],
)
def test_most_of_the_traffic(same: int, callers: int, *, warned: bool) -> None:
    """Eight of ten requests from one address, of different callers, are not one client's."""
    with structlog.testing.capture_logs() as logged:
        traffic(SharedAddress(Clock()), same, callers)
    assert len(logged) == warned
    if warned:
        assert logged[0]["client"] == "10.0.0.1"
        assert "trusted_proxies" in logged[0]["hint"]


def test_it_is_said_once_an_hour() -> None:
    """A log that says it with each thousand requests would be read by nobody."""
    clock = Clock()
    watch = SharedAddress(clock)
    with structlog.testing.capture_logs() as logged:
        for _ in range(5):
            traffic(watch, SAMPLE)
        assert len(logged) == 1
        clock.advance(PAUSE)
        traffic(watch, SAMPLE)
    assert len(logged) == 2


def test_what_was_before_is_forgotten() -> None:
    """Each sample is looked at by itself: callers of an earlier one do not make one caller several."""
    watch = SharedAddress(Clock())
    with structlog.testing.capture_logs() as logged:
        traffic(watch, 1)
        traffic(watch, SAMPLE, callers=1)
    assert logged == []
