"""Stands between the backend and a program: `python -I -S reaper.py LIFELINE SCRATCH PROGRAM ARG…`.

When the backend ends, however that ends, or the program does, nothing of the program is left: the
reaper kills every process of its session and removes the directory SCRATCH. It learns of the
backend's end from LIFELINE, the number of a pipe of which the backend holds the other end. If the
reaper itself is killed, the kernel kills the program (prctl(2), PR_SET_PDEATHSIG), and its children
have `hubgate.backend.plugin.lifetime` for that.

PR_SET_PDEATHSIG alone is not enough: vLLM's engine core waits for minutes for its parent before it
loads any plugin. Standard library only, so that it costs milliseconds and little memory.
"""

import ctypes
import os
import select
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG = 1
POLL = 0.02  # seconds between two looks at /proc
TIDY = 3.0  # seconds that shared memory may take to be removed


def main(argv: list[str]) -> int:
    """Run the program until it or the backend ends. Returns its exit status, 128 + N for signal N."""
    lifeline, scratch, program = int(argv[1]), argv[2], argv[3:]
    # uvloop leaves copies of a child's streams open in it; who reads them would wait for their end.
    os.closerange(3, lifeline)
    os.closerange(lifeline + 1, os.sysconf("SC_OPEN_MAX"))
    signals = (signal.SIGTERM, signal.SIGINT)
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # none may be lost before there is a child
    reaper = os.getpid()
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
        _become(program, reaper, lifeline)
    for number in signals:
        signal.signal(number, lambda number, _: _pass_on(child, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    # The program's pipes are not ours: whoever reads them is to see their end when it ends.
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    watched = select.poll()
    process = os.pidfd_open(child)
    watched.register(lifeline, select.POLLIN)
    watched.register(process, select.POLLIN)
    ready = {fd for fd, _ in watched.poll()}
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) if process in ready else 1
    end_session(os.getsid(0), spare=os.getpid())
    shutil.rmtree(scratch, ignore_errors=True)
    return code if code >= 0 else 128 - code


def end_session(session: int, spare: int) -> None:
    """SIGKILL to every process of a session but one; returns when they are gone."""
    end = time.monotonic() + TIDY
    while members := [pid for pid in session_members(session) if pid != spare]:
        # Shared memory outlives processes. Python's resource tracker removes it when the others
        # are gone, and then ends by itself.
        spared = time.monotonic() < end
        for pid in members:
            if spared and _is_tracker(pid):
                continue
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(POLL)


def session_members(session: int) -> list[int]:
    """The live processes of a session, zombies left out (proc(5), /proc/PID/stat)."""
    members = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        with suppress(OSError):  # it ended while we looked
            stat = Path(entry.path, "stat").read_bytes()
            # The command stands in parentheses and may hold anything, parentheses included.
            state, _parent, _group, owner = stat[stat.rindex(b")") + 2 :].split()[:4]
            if int(owner) == session and state not in {b"Z", b"X"}:
                members.append(int(entry.name))
    return members


def _is_tracker(pid: int) -> bool:
    try:
        return b"multiprocessing.resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _become(program: list[str], reaper: int, lifeline: int) -> None:
    """In the child: die with the reaper, and be the program."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != reaper:  # it died before the kernel was told
        os._exit(1)
    os.close(lifeline)
    try:
        os.execvp(program[0], program)  # noqa: S606  # the point of this file
    except OSError as error:
        sys.stderr.write(f"{program[0]}: {error.strerror}\n")
        sys.stderr.flush()
    os._exit(127)


def _pass_on(child: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(child, number)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
