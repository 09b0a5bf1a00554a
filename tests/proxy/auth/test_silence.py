"""The silence that a 429 asks for: how long, for whom, and in bounded memory."""

import pytest

from proxy.auth.silence import ACCOUNTS, LONGEST, UNSAID, Silence, asked_for
from tests.fakes.clock import Clock


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7),
        ({"RateLimit": '"api";r=0;t=55'}, 55),
        ({"Retry-After": "7", "RateLimit": '"api";r=0;t=55'}, 7),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, UNSAID),
        ({}, UNSAID),
        ({"Retry-After": "999999999"}, LONGEST),
        ({"Retry-After": "0"}, 0),
    ],
)
def test_how_long(headers: dict[str, str], seconds: float) -> None:
    """As long as the headers say, within bounds."""
    assert asked_for(headers) == seconds


def test_each_key_has_its_own() -> None:
    """A silence holds for its key until its time is over."""
    clock = Clock()
    silence = Silence(clock)
    silence.keep(b"a", {"Retry-After": "7"})
    assert silence.wait(b"a") == 7
    assert silence.wait(b"b") == 0
    clock.advance(6)
    assert silence.wait(b"a") == 1
    clock.advance(1)
    assert silence.wait(b"a") == 0
    assert len(silence) == 0


def test_memory_is_bounded() -> None:
    """The oldest go first."""
    silence = Silence(Clock())
    for number in range(ACCOUNTS + 10):
        silence.keep(b"%d" % number, {})
    assert len(silence) == ACCOUNTS
    assert silence.wait(b"0") == 0
    assert silence.wait(b"%d" % (ACCOUNTS + 9)) == UNSAID
