"""Stops asking a Hub that does not answer, and finds out with single questions when it does again.

    closed ── `threshold` failures in a row ──► open ── its pause is over ──► half-open
       ▲                                       ▲                                │ one question at a time
       └────────────── any answer ─────────────┴──────────── it fails ──────────┘ (a longer pause)

Pure: it neither asks nor waits, and who asks says what a failure is. To a breaker of a question it is a 5xx,
a timeout or no connection; every other answer, a refusal too, shows that the Hub is there.
"""

import random
from collections.abc import Callable
from typing import Final, Literal

THRESHOLD: Final = 5  # failures in a row
FIRST_PAUSE: Final = 1.0  # seconds; each probe that fails doubles it
LONGEST_PAUSE: Final = 30.0  # seconds
JITTER: Final = 0.25  # a pause is lengthened by up to this share, so that proxies do not probe together
IDLE: Final = 30.0  # seconds after a pause in which nobody asked: then nothing is known of the Hub
PROBED: Final = 1.0  # seconds that those are told to wait who come while a probe is in flight

Why = Literal["failed", "answered", "idle"]


class Attempt:
    """Leave for one question; it ends with exactly one `Breaker.end`."""


class Breaker:
    """One kind of question. `on_transition(open, why)` is called once at each transition."""

    def __init__(
        self,
        clock: Callable[[], float],
        on_transition: Callable[[bool, Why], None],
        chance: Callable[[], float] = random.random,
        *,
        threshold: int = THRESHOLD,
        longest_pause: float = LONGEST_PAUSE,
    ) -> None:
        self._clock = clock
        self._on_transition = on_transition
        self._chance = chance
        self._threshold = threshold
        self._longest_pause = longest_pause
        self._failures = 0  # in a row, while closed
        self._pauses = 0  # in a row; 0 means closed
        self._until = 0.0  # end of the last pause
        self._probe: Attempt | None = None

    def is_open(self) -> bool:
        """Whether the Hub is believed to be away, half-open included."""
        return self._pauses > 0 and (self._probe is not None or self._clock() < self._until + IDLE)

    def begin(self) -> Attempt | float:
        """Leave to ask, or for how many seconds there is none."""
        if self._pauses and not self.is_open():
            self._close("idle")
        if not self._pauses:
            return Attempt()
        wait = self._until - self._clock()
        if wait > 0:
            return wait
        if self._probe is not None:
            return PROBED
        self._probe = Attempt()
        return self._probe

    def end(self, one: Attempt, *, answered: bool | None) -> None:
        """Say how a question ended; `None` for one that was given up before it could show anything."""
        probe = one is self._probe
        if probe:
            self._probe = None
        if answered:
            self._failures = 0
            if self._pauses:
                self._close("answered")
        elif answered is False:
            self._failed(probe=probe)

    def _failed(self, *, probe: bool) -> None:
        if self._pauses:
            # Questions that began before it opened say nothing new.
            if probe:
                self._pause()
            return
        self._failures += 1
        if self._failures >= self._threshold:
            self._pause()
            self._on_transition(True, "failed")  # noqa: FBT003 - the state

    def _pause(self) -> None:
        longest = self._longest_pause / (1 + JITTER)
        pause = min(longest, FIRST_PAUSE * 2 ** min(self._pauses, 10))
        self._pauses += 1
        self._until = self._clock() + pause * (1 + JITTER * self._chance())

    def _close(self, why: Why) -> None:
        self._failures = self._pauses = 0
        self._probe = None
        self._on_transition(False, why)  # noqa: FBT003 - the state
