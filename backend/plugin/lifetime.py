"""`vllm.general_plugins`: each vLLM process dies with the one that started it.

vLLM calls `register` in its API server, its engine core and its workers. It is the second line: the
first is `hubgate.backend.processes.reaper`, and this one holds when the reaper itself is killed. Since it
is called everywhere, what must be mended in vLLM is mended here too.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading

from hubgate.backend.plugin import grammars, vllm_48421

PR_SET_PDEATHSIG = 1


def register() -> None:
    """Ask the kernel to kill this process when its parent dies (prctl(2)). Harmless when repeated."""
    _tie()
    # The parent may have died before the kernel was told; then another has adopted us.
    started_by = multiprocessing.parent_process()
    if started_by is not None and started_by.pid != os.getppid():
        os._exit(1)
    _Forks.follow()
    if "vllm" in sys.modules:
        vllm_48421.apply_workaround()
        grammars.bound_compilers()


class _Forks:
    """Forked children lose the setting, and vLLM does not call plugins again in them."""

    following = False
    on_main_thread = False

    @classmethod
    def follow(cls) -> None:
        if not cls.following:
            cls.following = True
            os.register_at_fork(before=cls._before, after_in_child=cls._after)

    @classmethod
    def _before(cls) -> None:
        cls.on_main_thread = threading.current_thread() is threading.main_thread()

    @classmethod
    def _after(cls) -> None:
        # The signal follows the thread that forked: from another one it would come too early.
        if cls.on_main_thread:
            _tie()


def _tie() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl: {os.strerror(number)}")
