"""Single flight: callers who wait for the same repo at the same sha share one download.

They share bytes, and what is true for everyone; never a decision about one of them. Each brings a
token of their own. If the Hub refuses the one that is being used, only its bearer is refused, and
the next one's is tried.
"""

import asyncio
from dataclasses import dataclass, field

from backend.fetch import Fetched, Fetcher, Kind, Meter, Select
from backend.jobs import Failure
from wire.repo import RepoRef
from wire.secret import Secret

# True of a token, and not of the repo: the Hub calls what a token may not see "not found".
_PERSONAL = frozenset({"denied", "not_found"})

Outcome = Fetched | Failure | None  # None: it came with somebody else's download


@dataclass(slots=True, eq=False)
class _Waiter:
    token: Secret | None
    outcome: asyncio.Future[Outcome]


@dataclass(slots=True, eq=False)
class _Flight:
    meter: Meter = field(default_factory=Meter)
    waiters: list[_Waiter] = field(default_factory=list)
    task: asyncio.Task[None] | None = None


class Flights:
    """The downloads under way."""

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher
        self._flights: dict[RepoRef, _Flight] = {}

    def join(
        self, ref: RepoRef, kind: Kind, select: Select, token: Secret | None
    ) -> tuple[Meter, asyncio.Future[Outcome]]:
        """Wait with the others. Cancelling the future leaves; when all have left, the download ends."""
        flight = self._flights.setdefault(ref, _Flight())
        waiter = _Waiter(token, asyncio.get_running_loop().create_future())
        flight.waiters.append(waiter)
        waiter.outcome.add_done_callback(lambda _: self._leave(flight, waiter, ref))
        if flight.task is None:
            flight.task = asyncio.create_task(self._fly(flight, ref, kind, select))
        return flight.meter, waiter.outcome

    async def _fly(self, flight: _Flight, ref: RepoRef, kind: Kind, select: Select) -> None:
        try:
            while flight.waiters:
                leader = flight.waiters[0]
                outcome = await self._fetcher.fetch(ref, kind, select, leader.token, flight.meter)
                if isinstance(outcome, Failure) and outcome.code in _PERSONAL:
                    _settle(leader, outcome)
                    flight.waiters = [waiter for waiter in flight.waiters if waiter is not leader]
                    continue
                for waiter in list(flight.waiters):
                    shared = None if isinstance(outcome, Fetched) and waiter is not leader else outcome
                    _settle(waiter, shared)
                return
        except Exception as error:  # noqa: BLE001  # whoever waits is to see it
            for waiter in flight.waiters:
                if not waiter.outcome.done():
                    waiter.outcome.set_exception(error)
        finally:
            if self._flights.get(ref) is flight:
                del self._flights[ref]

    def _leave(self, flight: _Flight, waiter: _Waiter, ref: RepoRef) -> None:
        waiter.token = None
        if not waiter.outcome.cancelled():
            return
        flight.waiters = [other for other in flight.waiters if other is not waiter]
        if not flight.waiters and flight.task is not None:
            self._flights.pop(ref, None)  # whoever comes now starts anew
            flight.task.cancel()


def _settle(waiter: _Waiter, outcome: Outcome) -> None:
    if not waiter.outcome.done():
        waiter.outcome.set_result(outcome)
