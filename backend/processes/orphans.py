"""Orphans: processes whose parent died before them. Somebody has to wait for them, or they stay as zombies.

Mostly that is init, which a container seldom has: the backend is process 1 there, and Kubernetes gives none.
So the backend takes them itself, wherever it runs: those of its own family, after vLLM's processes ended in
a hurry or a reaper was killed.
"""

import asyncio
import ctypes
import os
from typing import Final, Never

PR_SET_CHILD_SUBREAPER: Final = 36  # prctl(2)
LOOK: Final = 1.0  # seconds between two looks
SURE: Final = 0.2  # seconds in which the event loop has waited for a child that is its own


def adopt() -> None:
    """Have the orphans of this process' family become its children. Raises `OSError`."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl: {os.strerror(number)}")


async def bury() -> Never:
    """Forever: wait for the children that nobody else waits for.

    The event loop waits for those that it started as soon as they end, so who is still a zombie after it had
    its turn was not started by it.
    """
    last = 0
    while True:
        found = _zombie()
        if found and found == last:
            os.waitpid(found, os.WNOHANG)  # noqa: ASYNC222 - it has ended
            last = 0
            continue
        last = found
        await asyncio.sleep(SURE if found else LOOK)


def _zombie() -> int:
    """A child that has ended and is still there; 0 if there is none."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # there is no child at all
        return 0
    return found.si_pid if found is not None else 0
