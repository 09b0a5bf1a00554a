"""The silence that a 429 asks for: how long, for whom, and in bounded memory."""

import pytest

from hubgate.proxy.hub.cooldown import DEFAULT, MAX_ACCOUNTS, MAXIMUM, Cooldown, asked_for
from tests.fakes.clock import Clock


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7),
        ({"RateLimit": '"api";r=0;t=55'}, 55),
        ({"Retry-After": "7", "RateLimit": '"api";r=0;t=55'}, 7),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, DEFAULT),
        ({}, DEFAULT),
        ({"Retry-After": "999999999"}, MAXIMUM),
        ({"Retry-After": "0"}, 0),
        ({"Retry-After": "9999999999"}, DEFAULT),
        ({"Retry-After": "!7"}, DEFAULT),
        ({"RateLimit": "t=5"}, 5),
        ({"RateLimit": "t=999999999"}, MAXIMUM),
        ({"RateLimit": "t=9999999999"}, DEFAULT),
        ({"RateLimit": "t="}, DEFAULT),
        ({"RateLimit": "t=!5"}, DEFAULT),
    ],
)
def test_how_long(headers: dict[str, str], seconds: float) -> None:
    """As long as the headers say, within bounds."""
    assert asked_for(headers) == seconds


def test_each_key_has_its_own() -> None:
    """A silence holds for its key until its time is over."""
    clock = Clock()
    silence = Cooldown(clock)
    silence.keep(b"a", {"Retry-After": "7"})
    assert silence.wait(b"a") == 7
    assert silence.wait(b"b") == 0
    clock.advance(6)
    assert silence.wait(b"a") == 1
    assert silence.wait(b"a") == 1
    clock.advance(1)
    assert silence.wait(b"a") == 0
    assert len(silence) == 0


def test_who_never_asked_for_silence_is_spoken_to_at_once() -> None:
    """Also when the clock has only just begun."""
    assert Cooldown(Clock(0)).wait(b"a") == 0


def test_a_new_silence_is_remembered_longer_than_older_ones() -> None:
    """An account that asks again is not the oldest any more."""
    silence = Cooldown(Clock())
    for number in (*range(MAX_ACCOUNTS), 0, MAX_ACCOUNTS):
        silence.keep(b"%d" % number, {})
    assert silence.wait(b"0") == DEFAULT
    assert silence.wait(b"1") == 0


def test_memory_is_bounded() -> None:
    """The oldest go first."""
    silence = Cooldown(Clock())
    for number in range(MAX_ACCOUNTS + 10):
        silence.keep(b"%d" % number, {})
    assert len(silence) == MAX_ACCOUNTS
    assert silence.wait(b"0") == 0
    assert silence.wait(b"%d" % (MAX_ACCOUNTS + 9)) == DEFAULT
