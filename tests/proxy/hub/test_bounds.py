"""The numbers that callers, operators and the Hub are promised: to change one is a decision, not a slip."""

from hubgate.proxy.hub import breaker, cache, client, cooldown, fair_turns, histories, schemas, transport
from tests.cases import each


@each(
    ("number", "promised"),
    [
        (breaker.THRESHOLD, 5),  # failures in a row
        (breaker.FIRST_PAUSE, 1),  # seconds
        (breaker.LONGEST_PAUSE, 30),
        (breaker.JITTER, 0.25),
        (breaker.IDLE, 30),
        (breaker.PROBED, 1),
        (cache.JITTER, 0.1),  # shares of a life
        (cache.REFRESH, 0.8),
        (client.MAX_HOPS, 3),
        (histories.MAX_PAGES, 50),
        (histories.PAGES_PER_MINUTE, 100),
        (histories.MAX_COMMITS, 200_000),
        (histories.MAX_HISTORIES, 10_000),
        (histories.MAX_WALKERS, 10_000),
        (schemas.MAX_NAME, 1_000),  # characters
        (fair_turns.AT_ONCE, 48),
        (fair_turns.RESERVE, 16),
        (client.MAX_VERDICT, 64 * 1024),  # bytes
        (transport.MAX_ANSWER, 4 * 1024 * 1024),
        (transport.PATIENCE, 5),  # seconds that a question waits for its turn
        (transport.SEVERAL, 3),  # tokens in a row
        (transport.LONGEST_PROBING, 10),  # seconds
        (cooldown.MAXIMUM, 5 * 60),  # seconds, a window of the Hub
        (cooldown.DEFAULT, 10),
        (cooldown.MAX_ACCOUNTS, 10_000),
    ],
)
def test_what_is_promised(number: float, promised: float) -> None:
    """Each bound on time, memory and questions is the documented one."""
    assert number == promised
