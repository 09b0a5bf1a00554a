"""The silence that a 429 asks for: how long, for whom, and in bounded memory."""

from hubgate.proxy.hub.cooldown import DEFAULT, MAX_ACCOUNTS, MAXIMUM, Cooldown
from tests.cases import each
from tests.fakes.clock import Clock

NOW = 1_790_000_000.0  # Mon, 21 Sep 2026 14:13:20 GMT


def cooldown(clock: Clock | None = None) -> Cooldown:
    return Cooldown(clock or Clock(), lambda: NOW)


@each(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7),
        ({"RateLimit": '"api";r=0;t=55'}, 55),
        ({"Retry-After": "Mon, 21 Sep 2026 14:14:20 GMT"}, 60),
        ({"Retry-After": "Mon, 21 Sep 2037 14:14:20 GMT"}, MAXIMUM),
        ({"Retry-After": "999999999999"}, MAXIMUM),
        ({"Retry-After": "Mon, 21 Sep 2020 14:14:20 GMT"}, DEFAULT),
        ({"Retry-After": "soon"}, DEFAULT),
        ({}, DEFAULT),
    ],
)
def test_how_long(headers: dict[str, str], seconds: float) -> None:
    """As long as the headers say, within bounds."""
    silence = cooldown()
    assert silence.keep(b"a", headers) == seconds
    assert silence.wait(b"a") == seconds


def test_each_key_has_its_own() -> None:
    """A silence holds for its key until its time is over."""
    clock = Clock()
    silence = cooldown(clock)
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
    assert cooldown(Clock(0)).wait(b"a") == 0


def test_a_new_silence_is_remembered_longer_than_older_ones() -> None:
    """An account that asks again is not the oldest any more."""
    silence = cooldown()
    for number in (*range(MAX_ACCOUNTS), 0, MAX_ACCOUNTS):
        silence.keep(b"%d" % number, {})
    assert silence.wait(b"0") == DEFAULT
    assert silence.wait(b"1") == 0


def test_memory_is_bounded() -> None:
    """The oldest go first."""
    silence = cooldown()
    for number in range(MAX_ACCOUNTS + 10):
        silence.keep(b"%d" % number, {})
    assert len(silence) == MAX_ACCOUNTS
    assert silence.wait(b"0") == 0
    assert silence.wait(b"%d" % (MAX_ACCOUNTS + 9)) == DEFAULT
