"""Fetches one repo at one sha into the store: list, decide, download, verify, publish."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import structlog

from backend.jobs import Choice, Done, Failure, File, Job, Listing
from backend.metrics import Metrics
from backend.selection import Rejected, Selected
from backend.store import Staging, Store, StoreFullError
from backend.workers import Worker, Workers
from wire.control import Download
from wire.repo import RepoRef, is_sha
from wire.secret import Secret

LIST_DEADLINE = 45.0  # seconds, the worker's start included
STALL = 120.0  # seconds without a byte
DEADLINE = 6 * 3600.0  # seconds for one repo
POLL = 0.5  # seconds between two looks at how far it is
PARALLEL = 4  # downloads at a time

Kind = Literal["base", "adapter"]
Select = Callable[[Sequence[File]], Selected | Rejected]

log = structlog.get_logger()


@dataclass(slots=True)
class Meter:
    """How far a download is: bytes so far, bytes in all (0 while unknown), bytes per second."""

    done: int = 0
    total: int = 0
    rate: float = 0.0


@dataclass(frozen=True, slots=True)
class Fetched:
    """The repo is in the store; `download` is absent when it was there before."""

    download: Download


class Fetcher:
    """Downloads with the token it is given, never with one of its own. Counts and logs each."""

    def __init__(self, store: Store, workers: Workers, metrics: Metrics, endpoint: str | None) -> None:
        self._store = store
        self._workers = workers
        self._metrics = metrics
        self._endpoint = endpoint or ""
        self._slots = asyncio.Semaphore(PARALLEL)

    async def resolve(self, repo: RepoRef, token: Secret | None) -> str | Failure:
        """The sha that a branch or tag stands at."""
        async with self._slots, self._workers.take() as worker:
            answer = await self._list(worker, repo, token, worker.scratch)
        if isinstance(answer, Failure):
            return answer
        if not is_sha(answer.sha):
            return Failure(code="error", message="the Hub names no commit")
        return answer.sha

    async def fetch(
        self, ref: RepoRef, kind: Kind, select: Select, token: Secret | None, meter: Meter
    ) -> Fetched | Failure:
        """Bring `ref`, which is at a sha, into the store. `meter` tells how far it is meanwhile."""
        async with self._slots:
            started = time.monotonic()
            try:
                async with asyncio.timeout(DEADLINE):
                    outcome = await self._fetch(ref, select, token, meter)
            except TimeoutError:
                outcome = Failure(
                    code="hub_unavailable", message="the download took too long", retry_after=60
                )
            seconds = time.monotonic() - started
        result = "ok" if outcome is None else outcome.code
        self._metrics.downloaded(kind, result, meter.total if outcome is None else meter.done, seconds)
        log.info("download.done", repo=str(ref), kind=kind, result=result, bytes=meter.done, seconds=seconds)
        if outcome is not None:
            return outcome
        return Fetched(Download(repo=str(ref), kind=kind, bytes=meter.total, seconds=seconds))

    async def _fetch(
        self, ref: RepoRef, select: Select, token: Secret | None, meter: Meter
    ) -> Failure | None:
        with self._store.staging() as staging:
            async with self._workers.take() as worker:
                content = staging.path / "content"
                content.mkdir()
                listing = await self._list(worker, ref, token, content)
                if isinstance(listing, Failure):
                    return listing
                chosen = self._choose(ref, listing, select, staging)
                if isinstance(chosen, Failure):
                    return chosen
                meter.total = chosen.bytes
                await worker.choose(Choice(files=chosen.files))
                failure = await self._watch(worker, content, meter)
            if failure is not None:
                return failure
            try:
                self._store.publish(staging, content, ref)
            except OSError as error:
                log.warning("store.publish_failed", repo=str(ref), error=error.strerror)
                return Failure(code="error", message="the download could not be kept")
            return None

    async def _list(
        self, worker: Worker, ref: RepoRef, token: Secret | None, staging: Path
    ) -> Listing | Failure:
        job = Job(
            endpoint=self._endpoint,
            repo=ref.id,
            revision=ref.revision or "main",
            token=token.reveal() if token else "",
            staging=str(staging),
        )
        try:
            answer = await asyncio.wait_for(worker.list(job), LIST_DEADLINE)
        except TimeoutError:
            return Failure(code="hub_unavailable", message="the Hub does not answer", retry_after=10)
        if isinstance(answer, Listing | Failure):
            return answer
        return Failure(code="error", message="the download failed (unexpected answer)")

    def _choose(self, ref: RepoRef, listing: Listing, select: Select, staging: Staging) -> Selected | Failure:
        if listing.sha != ref.revision:
            return Failure(code="not_found", message="the Hub answered with another revision")
        selected = select(listing.files)
        if isinstance(selected, Rejected):
            return Failure(code="rejected", message=selected.reason)
        try:
            self._store.reserve(staging, selected.bytes)
        except StoreFullError:
            return Failure(
                code="store_full", message="the store has no room for this model now", retry_after=60
            )
        return selected

    async def _watch(self, worker: Worker, content: Path, meter: Meter) -> Failure | None:
        """Follow the download to its end; one that stands still for too long is given up."""
        started = moved = time.monotonic()
        answer = asyncio.ensure_future(worker.answer())
        try:
            while True:
                await asyncio.wait([answer], timeout=POLL)
                now = time.monotonic()
                if answer.done():
                    said = answer.result()
                    if isinstance(said, Done):
                        meter.done = meter.total
                        return None
                    if isinstance(said, Failure):
                        return said
                    moved = now
                    answer = asyncio.ensure_future(worker.answer())
                size = await asyncio.to_thread(_bytes_in, content)
                if size > meter.done:
                    moved = now
                    meter.done, meter.rate = min(size, meter.total), size / max(now - started, 0.001)
                if now - moved > STALL:
                    return Failure(code="hub_unavailable", message="the download stood still", retry_after=30)
        finally:
            answer.cancel()


def _bytes_in(directory: Path) -> int:
    """What has arrived so far. Files move and vanish while we look; the next look is right again."""
    total = 0
    for path in directory.rglob("*"):
        try:
            if path.is_file():
                total += path.lstat().st_size
        except OSError:
            continue
    return total
