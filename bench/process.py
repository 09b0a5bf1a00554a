"""Child processes: each in a session of its own, bound to our life, ended by its id, whatever happens."""

import asyncio
import contextlib
import os
import random
import signal
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from bench.messages import LOCAL

GRACE: Final = 5.0  # seconds from SIGTERM to SIGKILL
START: Final = 90.0  # seconds until a child has to listen; LiteLLM takes ten on an idle machine

_taken: Final[set[int]] = set()


class StartError(Exception):
    """A child did not come up; the text ends with its last words."""


@dataclass(frozen=True, slots=True)
class Child:
    """A running child."""

    name: str
    log: Path
    process: asyncio.subprocess.Process

    def pids(self) -> tuple[int, ...]:
        """The child and all that it started. Raises `StartError` if it is gone."""
        try:
            root = psutil.Process(self.process.pid)
            return (root.pid, *(one.pid for one in root.children(recursive=True)))
        except psutil.NoSuchProcess:
            raise self.died() from None

    def died(self) -> StartError:
        """Its end, in words."""
        tail = self.log.read_text("utf-8", errors="replace").splitlines()[-15:]
        return StartError("\n".join([f"{self.name} ended by itself ({self.process.returncode}):", *tail]))


@asynccontextmanager
async def running(
    name: str,
    *command: str,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    grace: float = GRACE,
) -> AsyncIterator[Child]:
    """Run a command with its output in a log; leaving ends it and its children.

    It gets no more of our environment than the path: peers need no token of ours, and must not find one.
    Its session is its own, so that Ctrl-C reaches us alone; PR_SET_PDEATHSIG, which setpriv sets, ends
    it should we be killed. `grace` is the time from SIGTERM to SIGKILL, in seconds.
    """
    log = folder / f"{name}.log"
    home = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(folder), "TMPDIR": str(folder)}
    home |= {name: os.environ[name] for name in ("INTERPRETED",) if name in os.environ}
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *("setpriv", "--pdeathsig", "TERM", *command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**home, "PYTHONUNBUFFERED": "1", **(environment or {})},
            start_new_session=True,
        )
    child = Child(name, log, process)
    try:
        yield child
    finally:
        await _end(child, grace)


async def _end(child: Child, grace: float) -> None:
    family = []
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(child.process.pid)
        family = [root, *root.children(recursive=True)]
    with contextlib.suppress(ProcessLookupError):
        child.process.terminate()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(grace):
            await child.process.wait()
    for one in family:
        # psutil compares the start time, so that a number used anew is not mistaken for our child.
        with contextlib.suppress(psutil.NoSuchProcess):
            one.send_signal(signal.SIGKILL)
    await child.process.wait()


async def until_listening(child: Child, port: int) -> None:
    """Wait until something accepts connections there. Raises `StartError` if the child ends before that."""
    try:
        async with asyncio.timeout(START):
            while child.process.returncode is None:
                try:
                    _, writer = await asyncio.open_connection(LOCAL, port)
                except OSError:
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    return
    except TimeoutError:
        raise StartError(f"{child.name} did not listen within {START:.0f} seconds") from None
    raise child.died()


def free_port() -> int:
    """A free port of the loopback below the ephemeral range, so that no outgoing connection takes it."""
    for port in random.sample(range(20_000, 32_000), 1000):
        if port in _taken:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((LOCAL, port))
            _taken.add(port)
            return port
    raise StartError("there is no free port")
