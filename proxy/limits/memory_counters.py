"""Counts what callers use within the last minute, or hour, wherever that began: windows that slide.

What was used is kept in slices, each of which begins with a use and holds what came within the next twelfth
of the window. A slice counts until its last use is as old as the window is long. So in no window, wherever
it begins, is more let in than the limit; and nobody is refused who is below the limit within thirteen
twelfths of it, that is 65 seconds of a minute. The usual approximation, a fixed window's count weighted by
how much of it still counts, keeps two numbers instead, and lets nearly twice the limit in within a minute
that begins with a burst; so does a bucket that holds a whole minute's worth and fills up again meanwhile.

`MemoryCounters` is our own because it stands in the path of every request: one look into a dict, and no
task or lock. `Limits.acquire` and `release` take 1 µs with it, compiled; with the memory storage of the
`limits` package they took 12 µs, and that without a count of tokens.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from hubgate.proxy.frozen_struct import FrozenStruct

SLICES: Final = 12  # of a window; so many more parts of what it holds are remembered than of a fixed one
SWEEP: Final = 1000  # windows without uses that one new window removes at most: 0.2 ms, never a long pause
UNBOUNDED: Final = -1  # of what may be used as much as anybody likes


class Claim(FrozenStruct):
    """One more use of a window that must have room for it: fewer uses and fewer tokens than so many."""

    key: str
    most: int
    most_tokens: int


class Count(FrozenStruct):
    """What a window holds after a claim, and in how many seconds there is room for more than now."""

    let_in: bool  # whether this claim and all that were made with it counted
    uses: int
    tokens: int
    more_uses_in: float  # until somebody who was refused for the uses is not any more
    more_tokens_in: float


class Counters(Protocol):
    """Windows by key. One key always goes with the same length, in seconds."""

    @property
    def local(self) -> "MemoryCounters | None":
        """What counts at once, while it is this process that counts; `None` while an answer takes a wait."""

    async def take(self, claims: Sequence[Claim], seconds: int) -> Sequence[Count]:
        """Count one use of each window if all have room, else none; those refused leave no trace."""

    def charge(self, keys: Sequence[str], seconds: int, *, tokens: int) -> None:
        """Add tokens to each window without waiting for an answer, whether there is room or not."""

    async def admit(self, claims: Sequence[Claim], seconds: int, *, name: str, again: int) -> Sequence[Count]:
        """Take uses for a name, by the caller of the first claim.

        A name that was let in stays so for `again` seconds, and counts once; then nothing is given. It is one
        step: names that come at once cannot pass together.
        """


class _Log:
    """Uses of one kind, the oldest slice first."""

    def __init__(self) -> None:
        self.total = 0
        self._begun = 0.0  # when the newest slice did
        self._lasts: list[float] = []  # when each slice had its last use
        self._counts: list[int] = []

    def add(self, count: int, now: float, width: float) -> None:
        if self._lasts and now - self._begun < width:
            self._lasts[-1] = now
            self._counts[-1] += count
        else:
            self._begun = now
            self._lasts.append(now)
            self._counts.append(count)
        self.total += count

    def is_empty(self) -> bool:
        return not self._lasts

    def forget(self, until: float) -> None:
        """Drop what was used until then."""
        while self._lasts and self._lasts[0] <= until:
            self._lasts.pop(0)
            self.total -= self._counts.pop(0)

    def wait(self, most: int, since: float) -> float:
        """Seconds until less than `most` is left of it, and less than now in any case; 0 if there is none."""
        over = max(1, self.total - most + 1) if most >= 0 else 1
        for i, last in enumerate(self._lasts):
            over -= self._counts[i]
            if over <= 0:
                return last - since
        return 0.0


class _Window:
    def __init__(self) -> None:
        self.uses = _Log()
        self.tokens = _Log()

    def slide(self, since: float) -> None:
        self.uses.forget(since)
        self.tokens.forget(since)

    def is_empty(self) -> bool:
        return self.uses.is_empty() and self.tokens.is_empty()

    def has_room(self, claim: Claim) -> bool:
        room = claim.most < 0 or self.uses.total < claim.most
        return room and (claim.most_tokens < 0 or self.tokens.total < claim.most_tokens)

    def count(self, claim: Claim, since: float, *, let_in: bool) -> Count:
        uses, tokens = self.uses, self.tokens
        return Count(
            let_in,
            uses.total,
            tokens.total,
            uses.wait(claim.most, since),
            tokens.wait(claim.most_tokens, since),
        )


class MemoryCounters:
    """Windows of this process alone."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # By length. Each in the order in which they were looked at last for being without uses.
        self._windows: defaultdict[int, OrderedDict[str, _Window]] = defaultdict(OrderedDict)
        # Until when each name that was let in stays so, by how long that is; in the order of their ends.
        self._named: defaultdict[int, OrderedDict[str, float]] = defaultdict(OrderedDict)

    def __len__(self) -> int:
        return sum(len(windows) for windows in self._windows.values()) + sum(
            len(names) for names in self._named.values()
        )

    @property
    def local(self) -> "MemoryCounters | None":
        """See `Counters`."""
        return self

    async def take(self, claims: Sequence[Claim], seconds: int) -> Sequence[Count]:
        """See `Counters`; it never waits."""
        return self.take_now(claims, seconds)

    def charge(self, keys: Sequence[str], seconds: int, *, tokens: int) -> None:
        """See `Counters`."""
        now = self._clock()
        since = now - seconds
        windows = self._windows[seconds]
        before = len(windows)
        for key in keys:
            _slid(windows, key, since).tokens.add(tokens, now, seconds / SLICES)
        if len(windows) > before:
            _sweep(windows, since)

    async def admit(self, claims: Sequence[Claim], seconds: int, *, name: str, again: int) -> Sequence[Count]:
        """See `Counters`; it never waits."""
        return self.admit_now(claims, seconds, name, again)

    def take_now(self, claims: Sequence[Claim], seconds: int) -> Sequence[Count]:
        """Do what `take` does, for those who cannot await."""
        now = self._clock()
        since = now - seconds
        windows = self._windows[seconds]
        before = len(windows)
        mine: list[_Window] = []
        let_in = True
        for claim in claims:
            window = _slid(windows, claim.key, since)
            mine.append(window)
            if not window.has_room(claim):
                let_in = False
        found: list[Count] = []
        for i, claim in enumerate(claims):
            window = mine[i]
            if let_in:
                window.uses.add(1, now, seconds / SLICES)
            found.append(window.count(claim, since, let_in=let_in))
        if len(windows) > before:
            _sweep(windows, since)
        return found

    def admit_now(self, claims: Sequence[Claim], seconds: int, name: str, again: int) -> Sequence[Count]:
        """Do what `admit` does, for those who cannot await."""
        now = self._clock()
        names = self._named[again]
        mine = f"{claims[0].key}:{name}"
        if (until := names.get(mine)) is not None and until > now:
            return ()
        counts = self.take_now(claims, seconds)
        if counts[0].let_in:
            names[mine] = now + again
            names.move_to_end(mine)
            _drop_ended(names, now)
        return counts

    def clear(self) -> None:
        """Forget everything."""
        self._windows.clear()
        self._named.clear()


def _slid(windows: OrderedDict[str, _Window], key: str, since: float) -> _Window:
    """The key's window as it is now, which begins empty if there is none."""
    window = windows.get(key)
    if window is None:
        window = windows[key] = _Window()
    else:
        window.slide(since)
    return window


def _sweep(windows: OrderedDict[str, _Window], since: float) -> None:
    """Remove windows without uses until one has some; that one is looked at again after all others.

    As each window that comes has at least one looked at, about as many are without uses as with some at most.
    """
    for _ in range(min(SWEEP, len(windows))):
        key, window = windows.popitem(last=False)
        window.slide(since)
        if not window.is_empty():
            windows[key] = window
            return


def _drop_ended(names: OrderedDict[str, float], now: float) -> None:
    for _ in range(min(SWEEP, len(names))):
        name, until = names.popitem(last=False)
        if until > now:
            names[name] = until
            names.move_to_end(name, last=False)
            return
