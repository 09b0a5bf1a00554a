"""Audit trails for tests, and a disk that is full."""

import os
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hubgate.proxy.audit.writer import AuditWriter
from hubgate.proxy.metrics.registry import Metrics
from tests.fakes.clock import Clock

KEY = b"k" * 32


@contextmanager
def writing(path: Path, *, required: bool = True, key: bytes = KEY) -> Iterator[AuditWriter]:
    """A trail that is written; closing waits until everything is."""
    written = AuditWriter(path, key, Metrics(), required=required, now=Clock())
    written.start()
    try:
        yield written
    finally:
        written.close()


def write(path: Path, *names: str) -> None:
    """Write one record for each name."""
    with writing(path) as written:
        for name in names:
            written.record("request.done", {"user": name})


def until(condition: Callable[[], bool]) -> None:
    """Wait for the trail's thread."""
    pause = threading.Event()
    for _ in range(2000):
        if condition():
            return
        pause.wait(0.005)
    pytest.fail("it never came true")


@contextmanager
def full_disk(path: Path, room: int) -> Iterator[None]:
    """No file can grow beyond the trail's present size and `room` bytes: the write fails in its middle."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def disk(free: int, size: int) -> os.statvfs_result:
    """What the system says of a disk with so many bytes."""
    block = 4096
    return os.statvfs_result((block, block, size // block, free // block, free // block, 0, 0, 0, 0, 255))
