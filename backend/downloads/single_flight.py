"""Single flight: callers who wait for the same repo at the same sha share one download.

They share bytes, and what is true for everyone; never a decision about one of them. Each brings a
token of their own. If the Hub refuses the one that is being used, only its bearer is refused, and
the next one's is tried; if the download breaks, the next attempt is the next one's. Whatever files
were finished before are kept. A leader who leaves does not interrupt the attempt that is under way,
for that would throw away its bytes, but leads no other.
"""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field

from hubgate.backend.downloads.attempt import DownloadRequest, ProgressMeter
from hubgate.backend.downloads.fetcher import Fetched, Fetcher
from hubgate.backend.downloads.messages import Failure
from hubgate.backend.store.store import StoreFullError
from hubgate.wire.repo import RepoRef
from hubgate.wire.secret import Secret

# True of a token, and not of the repo: the Hub calls what a token may not see "not found".
_PERSONAL = frozenset({"denied", "not_found"})

Outcome = Fetched | Failure | None  # None: it came with somebody else's download


@dataclass(slots=True, eq=False)
class Interest:
    """Who a load is for, by pseudonym, and whether they still wait for it."""

    caller: str
    present: bool = True


@dataclass(slots=True, eq=False)
class _Waiter:
    token: Secret | None
    interest: Interest
    outcome: asyncio.Future[Outcome]


@dataclass(slots=True, eq=False)
class _Flight:
    meter: ProgressMeter = field(default_factory=ProgressMeter)
    waiters: list[_Waiter] = field(default_factory=list)
    task: asyncio.Task[None] | None = None
    leader: _Waiter | None = None

    def callers(self) -> Collection[str]:
        """Who waits for it in truth: whose load merely lingers does not."""
        return {waiter.interest.caller for waiter in self.waiters if waiter.interest.present}

    def next_token(self) -> Secret | None:
        """The token of whoever has waited longest. Who led the attempt before this one steps back."""
        if len(self.waiters) > 1 and self.waiters[0] is self.leader:
            self.waiters.append(self.waiters.pop(0))
        self.leader = self.waiters[0]
        return self.leader.token

    def payer(self) -> str:
        """Of the leader, whether they still wait or not."""
        return self.leader.interest.caller if self.leader is not None else ""

    def refuse(self, failure: Failure) -> None:
        """The Hub refused the leader, and nobody else."""
        if self.leader is not None:
            _settle(self.leader, failure)
        self.waiters = [waiter for waiter in self.waiters if waiter is not self.leader]

    def finish(self, outcome: Fetched | Failure) -> None:
        """It is over, for everyone; one of them, the leader if still here, is told of the download."""
        teller = self.leader if self.leader in self.waiters else next(iter(self.waiters), None)
        for waiter in list(self.waiters):
            mine = isinstance(outcome, Failure) or waiter is teller
            _settle(waiter, outcome if mine else None)


class SingleFlight:
    """The downloads under way."""

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher
        self._downloads: dict[RepoRef, _Flight] = {}

    def join(
        self, want: DownloadRequest, token: Secret | None, interest: Interest
    ) -> tuple[ProgressMeter, asyncio.Future[Outcome]]:
        """Wait with the others. Cancelling the future leaves; when all have left, the download ends."""
        ref = want.ref
        flight = self._downloads.setdefault(ref, _Flight())
        waiter = _Waiter(token, interest, asyncio.get_running_loop().create_future())
        flight.waiters.append(waiter)
        waiter.outcome.add_done_callback(lambda _: self._leave(flight, waiter, ref))
        if flight.task is None:
            flight.task = asyncio.create_task(self._fly(flight, want))
        self._fetcher.reconsider()
        return flight.meter, waiter.outcome

    def left(self, interest: Interest) -> None:
        """Whose load goes on without them: it takes nobody's place from now on."""
        interest.present = False
        self._fetcher.reconsider()

    async def _fly(self, flight: _Flight, want: DownloadRequest) -> None:
        try:
            with self._fetcher.staging() as staging:
                while flight.waiters:
                    outcome = await self._fetcher.fetch(want, flight, flight.meter, staging)
                    if not isinstance(outcome, Failure) or outcome.code not in _PERSONAL:
                        flight.finish(outcome)
                        return
                    flight.refuse(outcome)
        except StoreFullError:
            flight.finish(Failure(code="store_full", message="the disk is full", retry_after=60))
        except Exception as error:  # noqa: BLE001  # whoever waits is to see it
            for waiter in flight.waiters:
                if not waiter.outcome.done():
                    waiter.outcome.set_exception(error)
        finally:
            if self._downloads.get(want.ref) is flight:
                del self._downloads[want.ref]

    def _leave(self, flight: _Flight, waiter: _Waiter, ref: RepoRef) -> None:
        waiter.token = None
        if not waiter.outcome.cancelled():
            return
        flight.waiters = [other for other in flight.waiters if other is not waiter]
        if not flight.waiters and flight.task is not None:
            self._downloads.pop(ref, None)  # whoever comes now starts anew
            flight.task.cancel()
        self._fetcher.reconsider()


def _settle(waiter: _Waiter, outcome: Outcome) -> None:
    if not waiter.outcome.done():
        waiter.outcome.set_result(outcome)
