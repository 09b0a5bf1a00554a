"""How a caller is judged who takes an answer slowly: by what reaches them, not by what our buffers show."""

import asyncio
import struct
from typing import Any, cast
from unittest.mock import patch

import pytest

from hubgate.proxy.http.slow_reader import LOOKS, ReaderPace
from tests.cases import each

RATE, MOST = 1000, 60.0
KERNEL = 1_300_000  # bytes that a large socket buffer takes at once, when a third of it is free


class Wire:
    """A transport whose clock, buffer and acknowledged bytes are set by hand; a loop and a socket, too."""

    def __init__(self, *, counts: bool = True, ends: Exception | None = None) -> None:
        self.now = 0.0
        self.unsent = 64 * 1024
        self.acknowledged = 0
        self.looks = 0
        self._counts = counts
        self._ends = ends

    def time(self) -> float:
        return self.now

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def get_extra_info(self, name: str) -> "Wire | None":
        assert name == "socket"
        return None if isinstance(self._ends, EOFError) else self

    def getsockopt(self, *_: int) -> bytes:
        self.looks += 1
        if self._ends is not None:
            raise self._ends
        return struct.pack("=120xQ", self.acknowledged if self._counts else 0)


def judged(wire: Wire) -> ReaderPace:
    """What judges the reader of this."""
    with patch.object(asyncio, "get_running_loop", lambda: wire):
        return ReaderPace(cast("asyncio.Transport", cast("Any", wire)), RATE, MOST)


def waits(wire: Wire, pace: ReaderPace, rate: float, seconds: float) -> float:
    """They take so many bytes a second, and are waited for all the time; gives for how long they are."""
    left, end = pace.begin(), wire.now + seconds
    while left > 0 and wire.now < end:
        wire.now += left
        wire.acknowledged = int(wire.now * rate)
        left = pace.look()
    return wire.now


HOUR = 3600.0


def test_who_keeps_to_the_rate_is_waited_for() -> None:
    """Although nothing leaves our own buffer for minutes."""
    wire = Wire()
    assert waits(wire, judged(wire), RATE * 1.01, HOUR) >= HOUR
    assert wire.now * RATE > 2 * KERNEL


@each("rate", [0, 0.002, 1, RATE / 10, RATE / 2])
def test_who_is_slower_is_not(rate: float) -> None:
    """A byte each ten minutes is as good as none; and to see that takes no great number of looks."""
    wire = Wire()
    assert waits(wire, judged(wire), rate, HOUR) < 3 * MOST
    assert wire.looks < 3 * LOOKS


def test_the_engines_time_is_not_theirs() -> None:
    """Time between two waits does not count, nor is it counted as taking."""
    wire = Wire()
    pace = judged(wire)
    for _ in range(59):
        pace.begin()
        wire.now += 1
        pace.end()
        wire.now += HOUR
    assert pace.begin() == pytest.approx(MOST - 59)


@each(("taken", "left"), [(48 * 1024, 48 * 1024 / RATE), (0, 0)])
def test_a_kernel_that_does_not_count(taken: int, left: float) -> None:
    """What left our buffer while they were waited for is the measure then, however often that was."""
    wire = Wire(counts=False)
    pace = judged(wire)
    for _ in range(10):
        pace.begin()
        wire.now += MOST / 10
        wire.unsent -= taken // 10
        pace.end()
        wire.unsent += taken // 10
    pace.begin()
    assert pace.look() == pytest.approx(left, abs=0.1)


@each("ends", [OSError(9, "Bad file descriptor"), ValueError("negative file descriptor"), EOFError()])
def test_a_connection_that_is_gone_is_not_waited_for(ends: Exception) -> None:
    """Nobody can say any more what was taken, in whatever way the loop has it."""
    wire = Wire(ends=ends)
    assert waits(wire, judged(wire), 10 * RATE, HOUR) == MOST
