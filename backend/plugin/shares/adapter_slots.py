"""The adapters that run at once: no more than vLLM has slots for, and none is overtaken for ever.

With `max_loras` adapters running, vLLM 0.32 skips a request for another one and goes on with those behind it
whose adapter is in (vllm/v1/core/sched/scheduler.py, `schedule`): whoever keeps two adapters busy keeps the
third out. So no request is let in that vLLM would skip. For an adapter that waits another one is closed:
those who come later in the fair order are not let in for it, it runs dry, and its slot is free. The last slot
is for callers who hold none: they need not wait for that, unless there are several of them at once.
"""

from collections.abc import Collection


class _Adapter:
    """One that is in; in the order in which they came in, as a dict keeps it."""

    def __init__(self) -> None:
        self.requests = 0
        self.callers: dict[str, int] = {}  # requests of each


class AdapterSlots:
    """Which adapters are in, for whom, and which of them are closed. No clock, no I/O."""

    def __init__(self, most: int) -> None:
        """`most` is vLLM's `max_loras`."""
        self._most = most
        self._in: dict[str, _Adapter] = {}
        self._held: dict[str, int] = {}  # slots of each caller; one that two share is a slot of both
        self._closing: list[str] = []

    def __len__(self) -> int:
        return len(self._in)

    def enter(self, adapter: str | None, caller: str) -> None:
        """A request for the adapter was let in; `None` is the base model, which needs no slot."""
        if adapter is None:
            return
        entry = self._in.get(adapter)
        if entry is None:
            entry = self._in[adapter] = _Adapter()
        entry.requests += 1
        if caller not in entry.callers:
            entry.callers[caller] = 0
            self._held[caller] = self._held.get(caller, 0) + 1
        entry.callers[caller] += 1

    def leave(self, adapter: str | None, caller: str) -> None:
        """A request has ended."""
        if adapter is None:
            return
        entry = self._in[adapter]
        entry.requests -= 1
        entry.callers[caller] -= 1
        if not entry.callers[caller]:
            del entry.callers[caller]
            self._held[caller] -= 1
            if not self._held[caller]:
                del self._held[caller]
        if not entry.requests:
            del self._in[adapter]
            if adapter in self._closing:
                self._closing.remove(adapter)

    def admits(self, adapter: str | None, caller: str) -> bool:
        """Whether a request could be let in now, if nobody waits."""
        return adapter is None or adapter in self._in or self._has_room(caller)

    def look(self) -> "Look":
        """Begin to look through those who wait, in the fair order."""
        return Look(self)

    def _has_room(self, caller: str) -> bool:
        free = self._most - len(self._in)
        return free > 1 or (free == 1 and (self._most == 1 or caller not in self._held))

    def _to_close(self, caller: str, closed: Collection[str], *, overtaken: bool) -> str | None:
        """The adapter that is to run dry for one of this caller's; `None` if none need do so for it.

        One that was closed before stays so, or none would ever run dry. Else it is one of those who hold the
        most slots: of several of theirs the one with the fewest requests, which is the sooner dry; where each
        holds one, that which came in first, so that they take turns. Nobody gives a slot up to a caller who
        would then hold more than they; for an adapter that was `overtaken` too often, anybody does.
        """
        for name in self._closing:
            if name not in closed:
                return name
        own = self._held.get(caller, 0)
        found: str | None = None
        best = (0, 0)
        for name, entry in self._in.items():
            if name in closed:
                continue
            alone = len(entry.callers) == 1 and caller in entry.callers
            least = min([self._held[user] for user in entry.callers])
            if not (alone or overtaken or least > own + 1 or not own):
                continue
            rank = (least, -entry.requests if least > 1 else 0)
            if found is None or rank > best:
                found, best = name, rank
        return found


class Look:
    """One look through those who wait."""

    def __init__(self, slots: AdapterSlots) -> None:
        self._slots = slots
        self._closed: list[str] = []
        self._wanted: set[str] = set()

    def admits(self, adapter: str | None, caller: str, *, overtaken: bool) -> bool:
        """Whether this one, the next in the fair order, could be let in; if not, an adapter closes for it."""
        slots = self._slots
        if adapter is None:
            return True
        if adapter in slots._in:  # noqa: SLF001 - a part of it
            return adapter not in self._closed
        if slots._has_room(caller):  # noqa: SLF001
            return True
        if adapter not in self._wanted:
            self._wanted.add(adapter)
            closes = slots._to_close(caller, self._closed, overtaken=overtaken)  # noqa: SLF001
            if closes is not None:
                self._closed.append(closes)
                if closes not in slots._closing:  # noqa: SLF001
                    slots._closing.append(closes)  # noqa: SLF001
        return False

    def end(self) -> None:
        """Nobody was let in: what is closed for none of them opens again."""
        self._slots._closing = self._closed  # noqa: SLF001
