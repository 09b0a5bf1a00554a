"""The programs of `make run`: each is started again when it dies, and stopped with the launcher."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from hubgate.runtime import child_python

GRACE = 9.0  # seconds between SIGTERM and SIGKILL
QUICK = 10.0  # seconds; what dies sooner after its start may never come up
MAX_QUICK = 5  # such deaths in a row
FIRST_PAUSE = 0.5  # seconds before it is started again, doubled for each further quick death
USAGE = 2  # exit status of a program whose configuration is wrong, which stays wrong

Say = Callable[[str], None]


@dataclass(slots=True)
class Program:
    """One program, and where its log is."""

    name: str
    log: Path
    command: Sequence[str]
    environment: dict[str, str]
    process: asyncio.subprocess.Process
    started: float  # by the monotonic clock
    failure: str | None = None  # why it is not started again

    async def keep(self, say: Say) -> None:
        """Start it again whenever it ends by itself; return where that would not help, and say why."""
        quick = 0
        while True:
            status = await self.process.wait()
            quick = quick + 1 if time.monotonic() - self.started < QUICK else 0
            if status == USAGE:
                self.failure = f"{self.name} refuses to start"
            elif quick == MAX_QUICK:
                self.failure = f"{self.name} {_end(status)}, {quick} times right after its start"
            if self.failure is not None:
                return
            pause = FIRST_PAUSE * 2 ** max(0, quick - 1)
            say(f"{self.name} {_end(status)}; it starts again in {pause:g} s. Its log: {self.log}")
            await asyncio.sleep(pause)
            self.started = time.monotonic()
            try:
                self.process = await _spawn(self.command, self.environment, self.log)
            except OSError as error:
                self.failure = f"{self.name} cannot be started: {error.strerror}"
                return

    async def stop(self) -> None:
        """Ask it to end, and make it end after `GRACE` seconds."""
        if self.process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        try:
            await asyncio.wait_for(self.process.wait(), GRACE)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()


@asynccontextmanager
async def program(name: str, logs: Path, *arguments: str, **variables: str) -> AsyncIterator[Program]:
    """Run Python with these arguments and its output in a file in `logs`; leaving stops it."""
    log = logs / f"{name}.log"
    log.write_bytes(b"")
    command, environment = (*child_python.COMMAND, *arguments), _environment(variables)
    process = await _spawn(command, environment, log)
    running = Program(name, log, command, environment, process, time.monotonic())
    try:
        yield running
    finally:
        await running.stop()


async def _spawn(
    command: Sequence[str], environment: dict[str, str], log: Path
) -> asyncio.subprocess.Process:
    """Start a process, its output after what the log holds already.

    In a session of its own, so that Ctrl-C in the terminal reaches the launcher alone, which then
    stops them in order; and bound to the launcher's life by PR_SET_PDEATHSIG, which setpriv sets.
    """
    with log.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            *("setpriv", "--pdeathsig", "TERM", *command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
        )


def _environment(variables: dict[str, str]) -> dict[str, str]:
    """Our own environment without any Hub token: the demo brings its own."""
    kept = {k: v for k, v in os.environ.items() if "TOKEN" not in k and not k.startswith("HF_")}
    return child_python.safe({**kept, **variables})


def _end(status: int) -> str:
    """How it ended, in words (`asyncio.subprocess.Process.returncode`)."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:  # a real-time signal has no name
        return f"was ended by signal {-status}"
