"""The profile's table."""

from bench.profile import Spot, spots


def test_own_and_total_time() -> None:
    """Own time is on top of the stack; a function that calls itself counts once in the total."""
    stacks = ["main;serve;parse 30", "main;serve 10", "main;walk;walk 60", ""]
    assert spots(stacks) == [
        Spot("walk", own=0.6, total=0.6),
        Spot("parse", own=0.3, total=0.3),
        Spot("serve", own=0.1, total=0.4),
    ]
