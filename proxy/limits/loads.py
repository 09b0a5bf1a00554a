"""How many cold models one caller has loaded at once, and how soon a load that failed is tried again.

A load goes on at the backend when its caller leaves, for who comes back or another one. So it counts for that
caller until it is known to have ended: the model is warm, or so much time has passed that the backend will
have given it up. Who comes back for it joins it.

A load that failed for a reason that passes is not tried again for the same caller and model within a second:
who sends it again without pause is told the same, and costs the backend nothing.

Counted per process, as requests under way are.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from hubgate.proxy.errors import Denied
from hubgate.wire.bounded_map import BoundedMap

AT_ONCE: Final = 16  # models of one caller
LEFT: Final = 120.0  # seconds for which a load that was left counts, if its model is not warm before
AGAIN: Final = 1.0  # seconds
MAX_FAILED: Final = 10_000  # failures that are remembered


class Loads:
    """Counts loads by caller and model; a `begin` that refuses nothing has one `end`."""

    def __init__(self, clock: Callable[[], float], is_warm: Callable[[str], bool]) -> None:
        """`is_warm` says whether some backend holds a model of that name."""
        self._clock = clock
        self._is_warm = is_warm
        self._waiting: dict[str, dict[str, int]] = {}  # by caller and model, how many requests wait; 0: left
        self._left: OrderedDict[tuple[str, str], float] = OrderedDict()  # until when; the next one first
        self._failed: BoundedMap[tuple[str, str], tuple[Denied, float]] = BoundedMap(MAX_FAILED)

    def __len__(self) -> int:
        """How many loads count."""
        return sum(len(models) for models in self._waiting.values())

    def failed(self, sub: str, model: str) -> Denied | None:
        """What became of this caller's load of the model, if that was just now and will be the same again."""
        denied, until = self._failed.get((sub, model), (None, 0.0))
        return denied if self._clock() < until else None

    def begin(self, sub: str, model: str) -> Denied | None:
        """Count a request that waits for a load."""
        self._forget()
        mine = self._waiting.get(sub, {})
        if model not in mine and len(mine) >= AT_ONCE:
            for left in [one for one, waiting in mine.items() if not waiting and self._is_warm(one)]:
                del self._left[sub, left]
                self._drop(sub, left)
            if len(mine) >= AT_ONCE:
                message = f"You have {AT_ONCE} cold models being loaded already; wait for one of them."
                return Denied("rate_limit_exceeded", message, retry_after=5)
        self._waiting.setdefault(sub, mine)
        mine[model] = mine.get(model, 0) + 1
        self._left.pop((sub, model), None)
        return None

    def end(self, sub: str, model: str, *, ended: bool, failed: Denied | None = None) -> None:
        """The request waits no more: the load has `ended`, well or not, or goes on without it."""
        now = self._clock()
        if failed is not None and failed.status == 503 and failed.retry_after:
            self._failed.put((sub, model), (failed, now + min(AGAIN, failed.retry_after)))
        mine = self._waiting[sub]
        mine[model] -= 1
        if mine[model]:
            return
        if ended:
            self._drop(sub, model)
        else:
            self._left[sub, model] = now + LEFT

    def _forget(self) -> None:
        """Count no more what was left too long ago."""
        now = self._clock()
        while self._left:
            (sub, model), until = next(iter(self._left.items()))
            if until > now:
                return
            del self._left[sub, model]
            self._drop(sub, model)

    def _drop(self, sub: str, model: str) -> None:
        mine = self._waiting[sub]
        del mine[model]
        if not mine:
            del self._waiting[sub]
