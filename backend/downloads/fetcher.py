"""Fetches one repo at one sha into the store: attempts, room, publication; counted and logged."""

import asyncio
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

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
from hubgate.backend.metrics import Metrics
from hubgate.backend.store.store import Staging, Store, StoreFullError
from hubgate.wire.control_api import Download
from hubgate.wire.repo import RepoRef, is_sha
from hubgate.wire.secret import Secret

PARALLEL = 4  # downloads at a time

NextToken = Callable[[], Secret | None]

_NO_ROOM = Failure(code="store_full", message="the store has no room for this model now", retry_after=60)

log = structlog.get_logger()


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
        self._slots = asyncio.Semaphore(PARALLEL)

    def staging(self) -> AbstractContextManager[Staging]:
        """Where the bytes of one repo gather, whoever's token fetches them. Raises as `Store.staging`."""
        return self._store.staging()

    async def resolve(self, repo: RepoRef, token: Secret | None) -> str | Failure:
        """The sha that a branch or tag stands at."""
        try:
            async with self._slots, self._workers.take() as worker:
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

    async def fetch(
        self, want: DownloadRequest, next_token: NextToken, meter: ProgressMeter, staging: Staging
    ) -> Fetched | Failure:
        """Bring a repo at a sha into the store. `meter` tells how far it is meanwhile.

        Each attempt asks `next_token` for a token. What a failed call leaves in `staging`, the next uses.
        """
        async with self._slots:
            started = time.monotonic()
            try:
                async with asyncio.timeout(self._patience.deadline):
                    outcome = await self._attempts(want, next_token, meter, staging)
            except TimeoutError:
                outcome = Failure(code="hub_unavailable", message="the download took too long")
            except StoreFullError:
                outcome = _NO_ROOM
            except OSError as error:
                log.warning("download.broke", repo=str(want.ref), error=error.strerror)
                outcome = Failure(code="error", message="the download could not be kept")
            seconds = time.monotonic() - started
        failed = isinstance(outcome, Failure)
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
        self, want: DownloadRequest, next_token: NextToken, meter: ProgressMeter, staging: Staging
    ) -> Failure | None:
        """Try until there is an end: `None`, and the repo is in the store."""
        pause = self._patience.pause
        for left in reversed(range(self._patience.attempts)):
            outcome = await self._attempt(want.ref, want.rules, next_token(), meter, staging)
            if outcome is None:
                self._publish(want.ref, staging)
                return None
            if isinstance(outcome, Failure):
                return outcome
            failure = outcome.failure
            wait = max(failure.retry_after or 0, pause)
            log.warning(
                "download.interrupted", repo=str(want.ref), reason=failure.message, attempts_left=left
            )
            if left == 0 or wait > self._patience.longest_pause:
                break
            # Nobody's token is in use meanwhile.
            await asyncio.sleep(wait)
            pause *= 2
        return failure

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


def _no_commit() -> Failure:
    return Failure(code="error", message="the Hub names no commit")
