"""Child processes that die with us, and are gone with all their children when `end` returns."""

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from hubgate.backend.processes.reaper import end_session

_REAPER = str(Path(__file__).with_name("reaper.py"))
_POLL = 0.02  # seconds between two looks whether it ended
_REAPER_TIME = 8.0  # seconds that the reaper gets to end the session itself

Stream = TypeVar("Stream", asyncio.StreamReader, asyncio.StreamWriter)


class Child:
    """One program under a reaper, in a session of its own so that its whole family can be found."""

    def __init__(self, process: asyncio.subprocess.Process, lifeline: int, scratch: Path) -> None:
        self._process = process
        self._lifeline: int | None = lifeline
        self.scratch = scratch

    @classmethod
    async def start(
        cls, argv: Sequence[str], environment: Mapping[str, str], *, stdin: bool = False, merge: bool = False
    ) -> "Child":
        """Start a program with this environment; `merge` sends its stderr along with stdout.

        Its temporary files go to `scratch`, a directory that vanishes with it. Raises `OSError`.
        """
        pipe = asyncio.subprocess.PIPE
        # Its end with us, whatever ends us, is what tells the reaper. Neither end is inherited
        # by any other child: Python opens pipes close-on-exec (PEP 446).
        watched, lifeline = os.pipe()
        # Not in the store: paths of sockets have at most 107 bytes (unix(7)).
        scratch = Path(tempfile.mkdtemp(prefix="hubgate-"))
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", _REAPER, str(watched), str(scratch), *argv),
                env={**environment, "TMPDIR": str(scratch)},
                stdin=pipe if stdin else asyncio.subprocess.DEVNULL,
                stdout=pipe,
                stderr=asyncio.subprocess.STDOUT if merge else pipe,
                start_new_session=True,
                pass_fds=(watched,),
            )
        except BaseException:
            os.close(lifeline)
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        finally:
            os.close(watched)
        return cls(process, lifeline, scratch)

    @property
    def pid(self) -> int:
        """Also the id of its session."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended, as far as we were told."""
        return self._process.returncode is None

    @property
    def stdin(self) -> asyncio.StreamWriter:
        return _there(self._process.stdin)

    @property
    def stdout(self) -> asyncio.StreamReader:
        return _there(self._process.stdout)

    @property
    def stderr(self) -> asyncio.StreamReader:
        return _there(self._process.stderr)

    async def wait(self) -> int:
        """The exit status of the program; nothing of it is left then.

        asyncio's own `wait` also waits for the pipes, which a grandchild may hold open for ever.
        """
        while (status := self._process.returncode) is None:  # noqa: ASYNC110  # it is another process
            await asyncio.sleep(_POLL)
        return status

    async def end(self, grace: float) -> None:
        """SIGTERM, after `grace` seconds SIGKILL to the whole session; returns when all are gone."""
        if self._process.returncode is None and grace > 0:
            with suppress(ProcessLookupError):
                self._process.terminate()
            await self._gone_within(grace)
        self._let_go()
        await self._gone_within(_REAPER_TIME)
        # Only if the reaper was killed, or hangs, is there anything left.
        await asyncio.to_thread(end_session, self.pid, spare=os.getpid())
        await asyncio.to_thread(shutil.rmtree, self.scratch, ignore_errors=True)
        await self._process.wait()

    async def _gone_within(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self.wait(), seconds)

    def _let_go(self) -> None:
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None


async def lines(stream: asyncio.StreamReader, limit: int) -> AsyncIterator[bytes]:
    """The lines of a stream until it ends, without their ends; what is longer than `limit` is cut."""
    line, too_long = b"", False
    while chunk := await stream.read(65536):
        *whole, rest = (line + chunk).split(b"\n")
        for text in whole:
            if not too_long:
                yield text[:limit]
            too_long = False
        if len(rest) > limit:
            if not too_long:
                yield rest[:limit]
            rest, too_long = b"", True
        line = rest
    if line and not too_long:
        yield line


def _there(stream: Stream | None) -> Stream:
    if stream is None:
        raise RuntimeError("this child was started without that pipe")
    return stream
