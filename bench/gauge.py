"""What the kernel says of other processes: CPU time and memory."""

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of all threads of these processes so far, to the nanosecond. Raises `OSError`.

    The clock of another process is ~pid << 3 | 2 (clock_getcpuclockid(3), CPUCLOCK_SCHED in the kernel's
    posix-timers.h); /proc/pid/stat counts the same in steps of 10 ms.
    """
    return sum(time.clock_gettime(~pid << 3 | 2) for pid in pids)


def rss_bytes(pids: Iterable[int]) -> int:
    """Resident memory of these processes, pages that they share counted for each. Raises `OSError`."""
    return sum(int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) for pid in pids) * _PAGE


def pin(pids: Iterable[int], cores: Iterable[int]) -> None:
    """Keep all threads of these processes on these cores. Raises `OSError`."""
    chosen = set(cores)
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(ProcessLookupError):  # a thread may end meanwhile
                os.sched_setaffinity(int(task.name), chosen)
