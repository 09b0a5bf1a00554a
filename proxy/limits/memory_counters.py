"""Counts what callers use, in windows that begin with a first use and then last a fixed time.

`MemoryCounters` is our own because it stands in the path of every request: one look into a dict, and no
task or lock. `Limits.acquire` and `release` take 1 µs with it, compiled, and took 5 µs before they were;
with the memory storage of the `limits` package they took 12 µs, and that without a count of tokens.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Callable
from typing import Final, Protocol

from hubgate.proxy.frozen_struct import FrozenStruct

SWEEP: Final = 1000  # ended windows that one new window removes at most: 0.2 ms, never a long pause


class WindowCount(FrozenStruct):
    """What a window holds, and when it ends."""

    uses: int
    tokens: int
    resets_in: float  # seconds


class Counters(Protocol):
    """Windows by key. One key always goes with the same length, in seconds."""

    @property
    def local(self) -> "MemoryCounters | None":
        """What counts at once, while it is this process that counts; `None` while an answer takes a wait."""

    async def add(self, key: str, seconds: int, *, uses: int = 0, tokens: int = 0) -> WindowCount:
        """Add to the key's window, which begins now if there is none, and tell what it holds then."""

    def charge(self, key: str, seconds: int, *, tokens: int) -> None:
        """Add tokens without waiting for an answer."""

    async def admit(self, key: str, seconds: int, *, most: int, name: str, again: int) -> float | None:
        """Let at most so many names into the key's window; those refused leave no trace.

        A name that was let in stays so for `again` seconds, and counts once. Gives `None`, or the
        seconds after which there is room. It is one step: names that come at once cannot pass together.
        """


class _Window:
    def __init__(self, ends: float) -> None:
        self.ends = ends
        self.uses = self.tokens = 0


class MemoryCounters:
    """Windows of this process alone."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # Per length, so that each stands in the order in which its windows end.
        self._windows: defaultdict[int, OrderedDict[str, _Window]] = defaultdict(OrderedDict)

    def __len__(self) -> int:
        return sum(len(windows) for windows in self._windows.values())

    @property
    def local(self) -> "MemoryCounters | None":
        """See `Counters`."""
        return self

    async def add(self, key: str, seconds: int, *, uses: int = 0, tokens: int = 0) -> WindowCount:
        """See `Counters`; it never waits."""
        return self.count(key, seconds, uses, tokens)

    def charge(self, key: str, seconds: int, *, tokens: int) -> None:
        """See `Counters`."""
        self._window(key, seconds, self._clock()).tokens += tokens

    async def admit(self, key: str, seconds: int, *, most: int, name: str, again: int) -> float | None:
        """See `Counters`; it never waits."""
        return self.admit_now(key, seconds, most, name, again)

    def count(self, key: str, seconds: int, uses: int, tokens: int) -> WindowCount:
        """Do what `add` does, for those who cannot await."""
        now = self._clock()
        window = self._window(key, seconds, now)
        window.uses += uses
        window.tokens += tokens
        return WindowCount(window.uses, window.tokens, window.ends - now)

    def admit_now(self, key: str, seconds: int, most: int, name: str, again: int) -> float | None:
        """Do what `admit` does, for those who cannot await."""
        now = self._clock()
        admitted = self._windows[again].get(f"{key}:{name}")
        if admitted is not None and admitted.ends > now:
            return None
        window = self._window(key, seconds, now)
        if window.uses >= most:
            return window.ends - now
        window.uses += 1
        self._window(f"{key}:{name}", again, now)
        return None

    def clear(self) -> None:
        """Forget everything."""
        self._windows.clear()

    def _window(self, key: str, seconds: int, now: float) -> _Window:
        windows = self._windows[seconds]
        window = windows.get(key)
        if window is None or window.ends <= now:
            window = windows[key] = _Window(now + seconds)
            windows.move_to_end(key)
            _sweep(windows, now)
        return window


def _sweep(windows: OrderedDict[str, _Window], now: float) -> None:
    for _ in range(SWEEP):
        key, window = windows.popitem(last=False)
        if window.ends > now:
            windows[key] = window
            windows.move_to_end(key, last=False)
            return
