"""The loads that are under way, with and without somebody who waits, and how many of them a caller may have.

As many as are left free for others, and `MOST_OF_ONE` at most: so there is always room for somebody new. A
load that its caller has left goes on and counts for them. It gives way where they, or all together, have as
many as may be.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import Any

from hubgate.backend.downloads.single_flight import Interest
from hubgate.backend.fairness.line import OPERATOR
from hubgate.wire.control_api import LoadFailed

MOST = 1024  # at a time; more are turned away
MOST_OF_ONE = 64  # a proxy's own default for requests at a time
AGAIN = 30  # seconds


@dataclass(slots=True, eq=False)
class _One:
    interest: Interest
    task: asyncio.Task[Any]


class UnderWay:
    """Counts them, the oldest first. The operator's own are always let in."""

    def __init__(self, most: int = MOST, most_of_one: int = MOST_OF_ONE) -> None:
        self._most = most
        self._most_of_one = most_of_one
        self._loads: dict[asyncio.Task[Any], _One] = {}

    def tasks(self) -> list[asyncio.Task[Any]]:
        """All of them."""
        return list(self._loads)

    def refusal(self, caller: str) -> LoadFailed | None:
        """Why this caller may not begin one more now. Ends a load that was left, if that helps."""
        if caller == OPERATOR:
            return None
        mine = [one for one in self._loads.values() if one.interest.caller == caller]
        if len(mine) >= min(self._most_of_one, self._most - len(self._loads)):
            left = self._left(mine) or (
                None if len(mine) >= self._most_of_one else self._left_by_others(caller)
            )
            if left is None:
                message = f"{len(mine)} of your loads are under way: your share; others wait"
                message = message if mine else "too many loads are under way"
                return LoadFailed(code="no_capacity", message=message, retry_after=AGAIN)
            self._end(left)
        return None

    def add(self, interest: Interest, task: asyncio.Task[Any]) -> None:
        """One more, until it is done."""
        self._loads[task] = _One(interest, task)
        task.add_done_callback(lambda done: self._loads.pop(done, None))

    def _left_by_others(self, caller: str) -> _One | None:
        """Of whoever has more than this caller, and most of them."""
        counts = Counter(one.interest.caller for one in self._loads.values())
        most = [one for one in self._loads.values() if counts[one.interest.caller] > counts[caller]]
        most.sort(key=lambda one: -counts[one.interest.caller])
        return self._left(most)

    def _left(self, loads: list[_One]) -> _One | None:
        return next((one for one in loads if not one.interest.present), None)

    def _end(self, load: _One) -> None:
        del self._loads[load.task]
        load.task.cancel()
