"""One attempt to download a repo, with one worker and one token: list, decide, fetch, watch."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from hubgate.backend.admission.file_selection import Rejected, Selected, is_weight
from hubgate.backend.downloads.messages import Done, Failure, FileSelection, Job, Listing
from hubgate.backend.downloads.worker_pool import CRASHED, Worker
from hubgate.backend.repo_files import RepoFile
from hubgate.backend.store.layout import size_of
from hubgate.wire.repo import RepoRef
from hubgate.wire.secret import Secret

Kind = Literal["base", "adapter"]

COME_AGAIN = 10  # seconds, when nobody knows better
POLL = 0.5  # seconds between two looks at how far it is


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a download may take, in seconds, and how often it is tried."""

    listing: float = 45.0  # the worker's start included
    stall: float = 120.0  # without a byte
    window: float = 60.0  # for which `least_rate` holds on average
    least_rate: float = 0.0  # bytes per second; what comes slower takes a place from others
    deadline: float = 6 * 3600.0  # for one repo, all attempts together, waits for a place apart
    attempts: int = 3  # interrupted ones included
    pause: float = 1.0  # before the second attempt; twice as long before the third
    longest_pause: float = 120.0  # when the Hub asks for more, the callers come again instead of waiting


@dataclass(slots=True)
class ProgressMeter:
    """How far a download is: bytes so far, bytes in all (0 while unknown), bytes per second."""

    done: int = 0
    total: int = 0
    rate: float = 0.0
    position: Callable[[], int | None] = lambda: None  # in the line for a place; `None` if it has one


@dataclass(frozen=True, slots=True)
class Rules:
    """What is fetched of a repo. Both answers are final; neither looks at who asks."""

    select: Callable[[Sequence[RepoFile]], Selected | Rejected]  # by its listing, before the first byte
    inspect: Callable[[Path], Rejected | None]  # by its small files, before the first weight


@dataclass(frozen=True, slots=True)
class DownloadRequest:
    """A repo at a sha, and by which rules."""

    ref: RepoRef
    kind: Kind
    rules: Rules


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The attempt came to no end of its own; another one may."""

    failure: Failure


class DownloadAttempt:
    """`content` is where the files go; what an attempt before this one finished there is kept."""

    def __init__(
        self, worker: Worker, ref: RepoRef, content: Path, meter: ProgressMeter, patience: Patience
    ) -> None:
        self._worker = worker
        self._ref = ref
        self._content = content
        self._meter = meter
        self._patience = patience

    async def list(self, token: Secret | None, endpoint: str) -> Listing | Failure | Interrupted:
        """What the repo holds, as this token sees it."""
        job = Job(
            endpoint=endpoint,
            repo=self._ref.id,
            revision=self._ref.revision or "main",
            token=token.reveal() if token else "",
            staging=str(self._content),
        )
        try:
            answer = await asyncio.wait_for(self._worker.list(job), self._patience.listing)
        except TimeoutError:
            return Failure(code="hub_unavailable", message="the Hub does not answer")
        if answer is CRASHED:
            return Interrupted(CRASHED)
        if isinstance(answer, Listing | Failure):
            return answer
        return Failure(code="error", message="the download failed (unexpected answer)")

    async def fetch(self, chosen: Selected, rules: Rules) -> Failure | Interrupted | None:
        """Fetch what was chosen, weights last: a repo that is refused for its configuration costs little."""
        small = tuple(file for file in chosen.files if not is_weight(file))
        weights = tuple(file for file in chosen.files if is_weight(file))
        failed = await self._get(small)
        if failed is not None:
            return failed
        unfit = await asyncio.to_thread(rules.inspect, self._content)
        if unfit is not None:
            return Failure(code="rejected", message=unfit.reason)
        return await self._get(weights)

    def _too_slow(self) -> Failure:
        message = f"the download came at less than {self._patience.least_rate:g} bytes a second"
        return Failure(code="hub_unavailable", message=message)

    async def _get(self, files: tuple[RepoFile, ...]) -> Failure | Interrupted | None:
        await self._worker.choose(FileSelection(files=files))
        failure = await self._watch()
        # Before this the Hub answered; what breaks now is worth another try.
        if failure is CRASHED or (failure is not None and failure.code == "hub_unavailable"):
            return Interrupted(failure)
        return failure

    async def _watch(self) -> Failure | None:
        """Follow the worker to the end of its choice; one that stands still for too long is given up."""
        meter = self._meter
        first = seen = await asyncio.to_thread(size_of, self._content)
        started = moved = since = time.monotonic()
        before = first  # bytes at `since`
        answer = asyncio.ensure_future(self._worker.answer())
        try:
            while True:
                await asyncio.wait([answer], timeout=min(POLL, self._patience.stall / 4))
                now = time.monotonic()
                if answer.done():
                    said = answer.result()
                    if isinstance(said, Done):
                        return None
                    if isinstance(said, Failure):
                        return said
                    moved = since = now  # all bytes are here, and are verified
                    answer = asyncio.ensure_future(self._worker.answer())
                size = await asyncio.to_thread(size_of, self._content)
                if size != seen:
                    moved, seen = now, size
                    meter.done = min(size, meter.total)
                    meter.rate = max(size - first, 0) / max(now - started, 0.001)
                if now - moved > self._patience.stall:
                    return Failure(code="hub_unavailable", message="the download stood still")
                if now - since >= self._patience.window:
                    if size - before < self._patience.least_rate * (now - since) and size < meter.total:
                        return self._too_slow()
                    since, before = now, size
        finally:
            answer.cancel()


def final(failure: Failure, longest: float) -> Failure:
    """The failure as a caller hears it: with a time to come again where that helps, and not too late."""
    if failure.code != "hub_unavailable":
        return failure
    return msgspec.structs.replace(failure, retry_after=int(min(failure.retry_after or COME_AGAIN, longest)))
