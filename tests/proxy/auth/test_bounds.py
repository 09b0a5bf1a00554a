"""The numbers that callers, operators and the Hub are promised: to change one is a decision, not a slip."""

from hubgate.proxy.auth import bearer, block, old_tokens, unknown_tokens
from tests.cases import each


@each(
    ("number", "promised"),
    [
        (old_tokens.DAY, 24 * 60 * 60),  # seconds, for the gauge of tokens over age
        (old_tokens.CAPACITY, 100_000),
        (bearer.MAX_LENGTH, 512),  # characters of a credential
        (block.MAX_BLOCKS, 10_000),
        (block.LAST_TIME, 253_402_300_799),  # 9999-12-31T23:59:59Z
        (unknown_tokens.WINDOW, 60),
        (unknown_tokens.MAX_CLIENTS, 10_000),
        (unknown_tokens.REPEATERS_FACTOR, 10),
        (unknown_tokens.NEWCOMERS_FACTOR, 40),
    ],
)
def test_what_is_promised(number: float, promised: float) -> None:
    """Each bound on time, memory and questions is the documented one."""
    assert number == promised
