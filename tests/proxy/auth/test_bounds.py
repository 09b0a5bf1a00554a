"""The numbers that callers, operators and the Hub are promised: to change one is a decision, not a slip."""

import pytest

from proxy.auth import ages, bearer, breaker, cache, hub, questions, silence, strangers


@pytest.mark.parametrize(
    ("number", "promised"),
    [
        (ages.DAY, 24 * 60 * 60),  # seconds, for the gauge of tokens over age
        (ages.CAPACITY, 100_000),
        (bearer.MAX_LENGTH, 512),  # characters of a credential
        (breaker.THRESHOLD, 5),  # failures in a row
        (breaker.FIRST_PAUSE, 1),  # seconds
        (breaker.LONGEST_PAUSE, 30),
        (breaker.JITTER, 0.25),
        (breaker.IDLE, 30),
        (breaker.PROBED, 1),
        (cache.JITTER, 0.1),  # shares of a life
        (cache.REFRESH, 0.8),
        (hub.MAX_HOPS, 3),
        (hub.MAX_PAGES, 50),
        (questions.MAX_ANSWER, 4 * 1024 * 1024),  # bytes
        (silence.LONGEST, 5 * 60),  # seconds, a window of the Hub
        (silence.UNSAID, 10),
        (silence.ACCOUNTS, 10_000),
        (strangers.WINDOW, 60),
        (strangers.CLIENTS, 10_000),
        (strangers.CROWD, 10),
        (strangers.NEWCOMERS, 40),
        (strangers.PREFIX, 64),  # bits, RFC 4291, section 2.5.4
    ],
)
def test_what_is_promised(number: float, promised: float) -> None:
    """Each bound on time, memory and questions is the documented one."""
    assert number == promised
