"""The audit trail as the proxy writes it. What a line is stands in `hubgate.proxy.audit.chain`.

Lines are made where the records come from, on the event loop: a thread that computed beside it would
take turns with it for each line, which costs more than the line. The thread writes, in groups; a SIGKILL
loses at most one.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import structlog

from hubgate.proxy.audit import chain
from hubgate.proxy.audit.chain import Chain, ChainHead
from hubgate.proxy.metrics.registry import Metrics

GROUP_SECONDS: Final = 0.05
MAX_QUEUED: Final = 20_000  # lines; about 20 MB
RESERVE: Final = 64 * 1024 * 1024  # bytes of the disk that are kept for those who are let in ...
RESERVE_SHARE: Final = 10  # ... or of a small disk, the whole divided by this
LOOK_SECONDS: Final = 1.0  # between two looks at what is free
_FRACTIONS: Final = tuple(f".{number:03d}+00:00" for number in range(1000))  # milliseconds, and the zone

log = structlog.get_logger("audit")


class AuditWriter:
    """Takes records without waiting, and writes them in order on a thread of its own."""

    def __init__(
        self,
        path: Path,
        key: bytes,
        metrics: Metrics,
        *,
        required: bool,
        now: Callable[[], float],
    ) -> None:
        self._path = path
        self._key = key
        self._metrics = metrics
        self._required = required
        self._now = now
        self._queue: deque[tuple[bytes, int, bytes]] = deque()  # lines, and the chain's end after each
        self._second = (0, "")  # the last one that was written out
        self._healthy = True
        self._wake = threading.Event()
        # Whether `_wake` is set, as the loop knows: the event is Python, and slower to ask than all the rest.
        self._woken = False
        self._closing = False
        self._writing = False  # whether the thread is there to do it
        trail = chain.open_to_append(path, key)
        self._file, self._head_file, self._end = trail.file, trail.head_file, trail.end
        self._chain = Chain(key, trail.head)
        self.scarce = False  # whether the disk has so little room that lines about strangers are left out
        self._looked = -LOOK_SECONDS  # when it was looked at, on `time.monotonic`
        self._look()
        self._writer = threading.Thread(target=self._write_on, name="audit", daemon=True)

    def start(self) -> None:
        self._writing = True
        self._writer.start()

    def admits(self) -> bool:
        """Whether a request may be taken: its record will find room and a healthy disk."""
        room = self._healthy and self._writing and len(self._queue) < MAX_QUEUED
        return room or not self._required

    def record(self, event: str, fields: Mapping[str, Any]) -> None:
        """Queue one record."""
        self.append(event, chain.members(fields))

    def append(self, event: str, members: str) -> None:
        """Queue one record whose members are JSON already, as `trail.members` makes it.

        Only the event loop's thread calls this.
        """
        self._metrics.audit_records.labels(event).inc()
        if not self._required and len(self._queue) >= MAX_QUEUED:
            return  # a disk that fails must not fill the memory too; the operator chose to go on
        chain = self._chain
        line = chain.line(self._time(), event, members)
        self._queue.append((line, chain.seq, chain.mac))
        if not self._woken:
            self._woken = True
            self._wake.set()

    def _time(self) -> str:
        now = self._now()
        second = int(now)
        if second != self._second[0]:
            self._second = (second, datetime.fromtimestamp(second, UTC).isoformat()[:19])
        return self._second[1] + _FRACTIONS[int((now - second) * 1000)]

    def close(self) -> None:
        """Write what is queued and end the thread. Blocks for at most a few seconds."""
        self._closing = True
        self._wake.set()
        self._writer.join(timeout=5)
        self._file.close()
        self._head_file.close()

    def _write_on(self) -> None:
        try:
            self._run()
        finally:
            self._writing = False

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            self._wake.wait(LOOK_SECONDS if self.scarce else None)
            if not self._closing:
                pause.wait(GROUP_SECONDS)  # let a group gather
            # In this order: what is queued until then is drained, and what comes later wakes again.
            self._wake.clear()
            self._woken = False
            self._drain()
            self._look()
            if self._closing and (not self._queue or not self._healthy):
                return
            if not self._healthy:
                pause.wait(1)  # the disk is full, say; the records wait and the caller is refused
                self._wake.set()

    def _drain(self) -> None:
        batch = list(self._queue)  # atomic, while the event loop's thread goes on appending
        if not batch:
            return
        group = b"".join([line for line, _, _ in batch])
        try:
            if not self._healthy:
                chain.cut(self._file, self._end)  # what the last failure may have left
            chain.write(self._file, group)
            chain.write_head(self._head_file, ChainHead(*batch[-1][1:]), self._key)
        except OSError:
            self._healthy = False
            with suppress(OSError):
                chain.cut(self._file, self._end)
            return
        self._healthy = True
        self._end += len(group)
        for _ in batch:
            self._queue.popleft()

    def _look(self) -> None:
        """See how much room the disk has, once a second at most."""
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        try:
            disk = os.statvfs(self._path.parent)
        except OSError:
            return  # writing tells
        free = disk.f_bavail * disk.f_frsize
        scarce = free < min(RESERVE, disk.f_blocks * disk.f_frsize // RESERVE_SHARE)
        self._metrics.audit_free_bytes.set(free)
        if scarce and not self.scarce:
            log.warning("the disk of the audit is nearly full: refusals are only counted", free_bytes=free)
        elif self.scarce and not scarce:
            log.info("the disk of the audit has room again", free_bytes=free)
        self.scarce = scarce
