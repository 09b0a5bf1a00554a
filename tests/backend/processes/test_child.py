"""Children: they end when they are told to, and with whoever started them, to the last grandchild."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from hubgate.backend.processes.child import Child, lines
from hubgate.backend.processes.reaper import session_members

# A program with a child of its own that ignores SIGTERM, in another process group.
FAMILY = """
    import os, signal, subprocess, sys, time
    if "stubborn" in sys.argv:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    subprocess.Popen([sys.executable, "-c", code], process_group=0)
    print("up", os.getpid(), flush=True)
    time.sleep(600)
"""
ENVIRONMENT = {"PATH": os.environ["PATH"], "CANARY": "yes"}


def _family(*arguments: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(FAMILY), *arguments]


async def _pid_of_program(child: Child) -> int:
    return int((await child.stdout.readline()).split()[1])


async def _until(probe: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not probe():  # noqa: ASYNC110  # it is another process
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("arguments", [(), ("stubborn",)])
async def test_end_leaves_nothing(arguments: tuple[str, ...]) -> None:
    """Whether SIGTERM is obeyed or not, all of the family is gone, and its temporary files."""
    child = await Child.start(_family(*arguments), ENVIRONMENT)
    await _pid_of_program(child)
    (child.scratch / "file").touch()
    assert len(session_members(child.pid)) >= 3
    await child.end(grace=0.3)
    assert not session_members(child.pid)
    assert not child.scratch.exists()


async def test_ending_is_quick_without_grace() -> None:
    """A download worker is given no time."""
    child = await Child.start(_family("stubborn"), ENVIRONMENT)
    await _pid_of_program(child)
    async with asyncio.timeout(2):
        await child.end(grace=0)
    assert not session_members(child.pid)


async def test_a_program_that_ends_takes_its_children_along() -> None:
    """SIGKILL of vLLM's API server must not leave its engine core."""
    child = await Child.start(_family(), ENVIRONMENT)
    os.kill(await _pid_of_program(child), signal.SIGKILL)
    assert await child.wait() == 128 + signal.SIGKILL
    assert not session_members(child.pid)
    await child.end(grace=0)


async def test_a_killed_guardian_takes_the_program_along() -> None:
    """The kernel sees to the program; `end` to what it left."""
    child = await Child.start(_family(), ENVIRONMENT)
    program = await _pid_of_program(child)
    os.kill(child.pid, signal.SIGKILL)
    await _until(lambda: program not in session_members(child.pid))
    await child.end(grace=0)
    assert not session_members(child.pid)
    assert not child.scratch.exists()


async def test_a_killed_backend_leaves_nothing(tmp_path: Path) -> None:
    """SIGKILL of the process that started it all: nobody is there to clean up, and it is clean."""
    code = """
        import asyncio, sys
        from hubgate.backend.processes.child import Child
        async def main():
            child = await Child.start(sys.argv[1:], {})
            await child.stdout.readline()
            print(child.pid, child.scratch, flush=True)
            await asyncio.sleep(600)
        asyncio.run(main())
    """
    argv = [sys.executable, "-c", textwrap.dedent(code), *_family("stubborn")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as backend:  # noqa: ASYNC220  # it is killed from outside
        assert backend.stdout is not None
        line = await asyncio.to_thread(backend.stdout.readline)
        session, scratch = int(line.split()[0]), Path(line.split()[1].decode())
        assert len(session_members(session)) >= 3
        backend.kill()
    await _until(lambda: not session_members(session))
    await _until(lambda: not scratch.exists())


async def test_the_environment_is_what_was_given() -> None:
    """Nothing of ours is inherited."""
    code = "import os; print(sorted(os.environ))"
    child = await Child.start([sys.executable, "-c", code], {"A": "1", "LC_CTYPE": "C.UTF-8"})
    assert await child.stdout.read() == b"['A', 'LC_CTYPE', 'TMPDIR']\n"
    await child.end(grace=0)


async def test_no_child_inherits_the_lifeline_of_another() -> None:
    """Else one engine would keep another alive when the backend dies."""
    children = [await Child.start(_family(), ENVIRONMENT) for _ in range(2)]
    for child in children:
        program = await _pid_of_program(child)
        assert not [fd for fd in os.listdir(f"/proc/{program}/fd") if int(fd) > 2]  # noqa: PTH208
    for child in children:
        await child.end(grace=0)


async def test_a_program_that_is_not_there_says_so() -> None:
    """The reason is in its output, and the status is the shell's."""
    child = await Child.start(["/no/such/program"], ENVIRONMENT, merge=True)
    assert b"No such file" in await child.stdout.read()
    assert await child.wait() == 127
    await child.end(grace=0)


async def test_lines_are_cut_and_never_lost() -> None:
    """An endless line costs no memory, and the next one is whole again."""
    stream = asyncio.StreamReader()
    stream.feed_data(b"one\n" + b"x" * 100_000 + b"\ntwo\nthree")
    stream.feed_eof()
    assert [line async for line in lines(stream, 5)] == [b"one", b"xxxxx", b"two", b"three"]
