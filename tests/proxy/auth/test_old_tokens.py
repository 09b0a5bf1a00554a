"""How many different tokens over the age limit were seen within a day."""

from hubgate.proxy.auth.old_tokens import CAPACITY, DAY, OldTokenGauge
from tests.fakes.clock import Clock


def test_different_tokens_are_counted_once() -> None:
    """Many uses of one token count as one."""
    ages = OldTokenGauge(Clock())
    for fingerprint in ("a", "b", "a", "a"):
        ages.seen(fingerprint)
    assert ages.count() == 2


def test_a_token_is_forgotten_a_day_after_its_last_use() -> None:
    """Each use begins the day anew."""
    clock = Clock()
    ages = OldTokenGauge(clock)
    ages.seen("a")
    ages.seen("b")
    clock.advance(DAY / 2)
    ages.seen("a")
    clock.advance(DAY / 2 + 1)
    assert ages.count() == 1
    clock.advance(DAY / 2)
    assert ages.count() == 0


def test_it_is_bounded() -> None:
    """A flood of tokens costs bounded memory."""
    clock = Clock()
    ages = OldTokenGauge(clock)
    for number in range(CAPACITY):
        ages.seen(str(number))
        clock.advance(0.25)
    ages.seen("newest")
    assert ages.count() == CAPACITY
    clock.advance(DAY)
    assert ages.count() == 1  # the oldest made room


def test_a_day_is_a_day() -> None:
    """It still counts at its last moment."""
    clock = Clock()
    ages = OldTokenGauge(clock)
    ages.seen("a")
    clock.advance(DAY)
    assert ages.count() == 1
    clock.advance(0.1)
    assert ages.count() == 0
