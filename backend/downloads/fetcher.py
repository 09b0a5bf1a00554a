"""Fetches one repo at one sha into the store: attempts, room, publication; counted and logged."""

import asyncio
import shutil
import time
from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import structlog

from hubgate.backend.admission.file_selection import Rejected, Selected
from hubgate.backend.downloads.attempt import (
    DownloadAttempt,
    DownloadRequest,
    Interrupted,
    Patience,
    ProgressMeter,
    Rules,
    final,
)
from hubgate.backend.downloads.messages import Failure, Listing
from hubgate.backend.downloads.worker_pool import WorkerPool
from hubgate.backend.fairness.line import OPERATOR, Line
from hubgate.backend.metrics import Metrics
from hubgate.backend.store.store import Staging, Store, StoreFullError
from hubgate.wire.control_api import Download
from hubgate.wire.repo import RepoRef, is_sha
from hubgate.wire.secret import Secret

LEAST_TURN = 5.0  # seconds for which an attempt keeps its worker, whoever else has less
PARALLEL = 4  # downloads at a time, for callers; the operator's own have a place more

_NO_ROOM = Failure(code="store_full", message="the store has no room for this model now", retry_after=60)
_SHARE_USED = Failure(
    code="store_full",
    message="your share of the store is used, and others used theirs lately",
    retry_after=120,
)

log = structlog.get_logger()


class Party(Protocol):
    """All who wait for one download."""

    def callers(self) -> Collection[str]:
        """Their pseudonyms, as long as they wait."""

    def next_token(self) -> Secret | None:
        """What the next attempt is made with."""

    def payer(self) -> str:
        """The pseudonym of whose token that was: what has to make room is theirs to pay for."""


@dataclass(slots=True)
class _Spent:
    """How long a download had places, all attempts together."""

    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _CalledBack:
    """Somebody who has less wanted the place."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """The repo is in the store; `download` tells what that took."""

    download: Download


class Fetcher:
    """Downloads with the tokens it is lent, never with one of its own."""

    def __init__(
        self,
        store: Store,
        workers: WorkerPool,
        metrics: Metrics,
        endpoint: str | None,
        patience: Patience = Patience(),  # noqa: B008  # frozen
    ) -> None:
        self._store = store
        self._workers = workers
        self._metrics = metrics
        self._endpoint = endpoint or ""
        self._patience = patience
        self._line = Line(PARALLEL, LEAST_TURN)

    def replace(self, patience: Patience) -> None:
        """Measure attempts by other numbers, those in flight too."""
        self._patience = patience

    def staging(self) -> AbstractContextManager[Staging]:
        """Where the bytes of one repo gather, whoever's token fetches them. Raises as `Store.staging`."""
        return self._store.staging()

    async def resolve(self, repo: RepoRef, token: Secret | None) -> str | Failure:
        """The sha that a branch or tag stands at."""
        try:
            async with self._line.place(self._line.turn(_operator)), self._workers.take() as worker:
                transfer = DownloadAttempt(worker, repo, worker.scratch, ProgressMeter(), self._patience)
                answer = await transfer.list(token, self._endpoint)
        except OSError as error:  # no descriptor or no process is left: one day there is
            log.warning("download.not_started", repo=str(repo), error=error.strerror)
            return Failure(code="error", message="no download could be started")
        match answer:
            case Interrupted(failure):
                return failure
            case Failure():
                return answer
            case _:
                return answer.sha if is_sha(answer.sha) else _no_commit()

    def reconsider(self) -> None:
        """Somebody waits no more: their place may be another's."""
        self._line.settle()

    async def fetch(
        self, want: DownloadRequest, party: Party, meter: ProgressMeter, staging: Staging
    ) -> Fetched | Failure:
        """Bring a repo at a sha into the store. `meter` tells how far it is meanwhile.

        What a failed call leaves in `staging`, the next uses.
        """
        spent = _Spent()
        try:
            outcome = await self._attempts(want, party, meter, staging, spent)
        except StoreFullError as error:
            outcome = _SHARE_USED if error.share_used else _NO_ROOM
        except OSError as error:
            log.warning("download.broke", repo=str(want.ref), error=error.strerror)
            outcome = Failure(code="error", message="the download could not be kept")
        failed, seconds = isinstance(outcome, Failure), spent.seconds
        size = meter.done if failed else meter.total
        result = outcome.code if isinstance(outcome, Failure) else "ok"
        repo, kind = str(want.ref), want.kind
        self._metrics.downloaded(kind, result, size, seconds)
        log.info("download.done", repo=repo, kind=kind, result=result, bytes=size, seconds=seconds)
        if isinstance(outcome, Failure):
            return final(outcome, self._patience.longest_pause)
        evicted = tuple(str(victim) for victim in staging.evicted)
        return Fetched(Download(repo=repo, kind=kind, bytes=size, seconds=seconds, evicted=evicted))

    async def _attempts(
        self, want: DownloadRequest, party: Party, meter: ProgressMeter, staging: Staging, spent: _Spent
    ) -> Failure | None:
        """Try until there is an end: `None`, and the repo is in the store."""
        pause, left = self._patience.pause, self._patience.attempts
        while True:
            outcome = await self._in_turn(want, party, meter, staging, spent)
            if outcome is None:
                self._publish(want.ref, staging)
                return None
            if isinstance(outcome, Failure):
                return outcome
            if isinstance(outcome, _CalledBack):
                continue
            left -= 1
            failure = outcome.failure
            wait = max(failure.retry_after or 0, pause)
            log.warning(
                "download.interrupted", repo=str(want.ref), reason=failure.message, attempts_left=left
            )
            if left == 0 or wait > self._patience.longest_pause:
                return failure
            # Nobody's token is in use meanwhile, and no place.
            await asyncio.sleep(wait)
            pause *= 2

    async def _in_turn(
        self, want: DownloadRequest, party: Party, meter: ProgressMeter, staging: Staging, spent: _Spent
    ) -> Failure | Interrupted | _CalledBack | None:
        """One attempt, when its turn has come, for as long as nobody who has less wants the place."""
        turn, asked = self._line.turn(party.callers), time.monotonic()
        meter.position = partial(self._line.position, turn)
        async with self._line.place(turn):
            started = time.monotonic()
            self._metrics.waited("download", started - asked)
            try:
                async with asyncio.timeout(self._patience.deadline - spent.seconds) as limit:
                    turn.on_call = partial(limit.reschedule, 0)  # at once
                    if turn.called_back:
                        return _CalledBack()
                    token, staging.taker = party.next_token(), party.payer()
                    return await self._attempt(want.ref, want.rules, token, meter, staging)
            except TimeoutError:
                if turn.called_back:
                    self._metrics.called_back()
                    log.info("download.called_back", repo=str(want.ref))
                    return _CalledBack()
                return Failure(code="hub_unavailable", message="the download took too long")
            finally:
                turn.forget_call()
                spent.seconds += time.monotonic() - started

    async def _attempt(
        self, ref: RepoRef, rules: Rules, token: Secret | None, meter: ProgressMeter, staging: Staging
    ) -> Failure | Interrupted | None:
        content = staging.path / "content"
        content.mkdir(exist_ok=True)
        async with self._workers.take() as worker:
            transfer = DownloadAttempt(worker, ref, content, meter, self._patience)
            listing = await transfer.list(token, self._endpoint)
            if isinstance(listing, Interrupted):
                return listing
            if isinstance(listing, Failure):
                begun = meter.total > 0 and listing.code == "hub_unavailable"
                return Interrupted(listing) if begun else listing
            chosen = _choose(ref, listing, rules)
            if isinstance(chosen, Failure):
                return chosen
            self._store.reserve(staging, chosen.bytes)
            meter.total, staging.files = chosen.bytes, chosen.files
            return await transfer.fetch(chosen, rules)

    def _publish(self, ref: RepoRef, staging: Staging) -> None:
        content = staging.path / "content"
        shutil.rmtree(content / ".cache", ignore_errors=True)  # the Hub client's own notes
        self._store.publish(staging, content, ref)


def _choose(ref: RepoRef, listing: Listing, rules: Rules) -> Selected | Failure:
    if listing.sha != ref.revision:
        return Failure(code="not_found", message="the Hub answered with another revision")
    selected = rules.select(listing.files)
    if isinstance(selected, Rejected):
        return Failure(code="rejected", message=selected.reason)
    return selected


def _operator() -> tuple[str]:
    return (OPERATOR,)


def _no_commit() -> Failure:
    return Failure(code="error", message="the Hub names no commit")
