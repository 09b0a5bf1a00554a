"""Download worker processes: one is started ahead of need while none works, each serves one download."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
import structlog

from hubgate.backend.downloads.messages import Answer, Done, Failure, FileSelection, Job
from hubgate.backend.processes.child import Child, lines
from hubgate.runtime import child_python

MAX_LINE = 16 << 20  # bytes; a listing of thousands of files is a few hundred KiB
_DECODER: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)
CRASHED = Failure(code="error", message="the download failed (its worker ended)")

# What an HTTP client needs of its surroundings. No token is among it: a job carries its own.
_INHERITED = (
    "PATH", "LANG", "LC_ALL", "TZ", "PYTHONPATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE",
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy",
    "no_proxy", "HF_ENDPOINT", "HUBGATE_RUN_ID", "INTERPRETED",
)  # fmt: skip

log = structlog.get_logger()


class Worker:
    """One process, from its start to its end."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._answers = lines(child.stdout, MAX_LINE)
        self._complaints = asyncio.create_task(self._relay())
        self._done = False

    @property
    def alive(self) -> bool:
        """Whether it still runs, as far as we know."""
        return self._child.running

    @property
    def done(self) -> bool:
        """Whether it has done all that it was told to, and writes no more."""
        return self._done

    @property
    def pid(self) -> int:
        """Of its session, which ends with it."""
        return self._child.pid

    @property
    def scratch(self) -> Path:
        """A directory that vanishes with the worker."""
        return self._child.scratch

    async def list(self, job: Job) -> Answer:
        """Hand over the job; the worker answers with a `Listing` or a `Failure`."""
        await self._tell(msgspec.json.encode(job))
        return await self.answer()

    async def choose(self, choice: FileSelection) -> None:
        """Let it fetch; then read with `answer` until `Done` or `Failure`."""
        self._done = False
        await self._tell(msgspec.json.encode(choice))

    async def answer(self) -> Answer:
        """The next thing the worker says; a worker that says no more has failed."""
        try:
            line = await anext(self._answers)
        except StopAsyncIteration:
            return CRASHED
        try:
            answer = _DECODER.decode(line)
        except (ValueError, RecursionError):  # a listing that was cut at `MAX_LINE`, say
            log.warning("download.worker_babbles", pid=self._child.pid, bytes=len(line))
            return CRASHED
        self._done = isinstance(answer, Done)
        return answer

    async def end(self) -> None:
        """Kill it, whatever it does, and wait until it is gone."""
        await self._child.end(grace=0)
        await self._complaints

    async def _tell(self, line: bytes) -> None:
        with suppress(ConnectionError):  # it is gone, which `answer` tells
            self._child.stdin.write(line + b"\n")
            await self._child.stdin.drain()

    async def _relay(self) -> None:
        async for line in lines(self._child.stderr, 2000):
            log.warning("download.worker", pid=self._child.pid, line=line.decode(errors="replace"))


class WorkerPool:
    """Keeps the spare, and hands it out."""

    def __init__(self, environ: Mapping[str, str], endpoint: str | None) -> None:
        self._environment = {name: environ[name] for name in _INHERITED if name in environ}
        if endpoint:
            self._environment["HF_ENDPOINT"] = endpoint
        self._spare: asyncio.Task[Worker] | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._closing = False

    def start(self) -> None:
        """Start a spare, if there is none."""
        if self._spare is None and not self._closing:
            self._spare = asyncio.create_task(self._launch())

    async def close(self) -> None:
        """End the spare, and see the others to their end."""
        self._closing = True
        await asyncio.gather(*self._ending)
        if self._spare is not None:
            with suppress(OSError):  # it could not be started
                worker = await self._spare
                await worker.end()

    @asynccontextmanager
    async def take(self) -> AsyncIterator[Worker]:
        """A worker for one download; it is killed at the end, and the next spare starts after it.

        Not before: it would take the processor from the download. A worker that has done its work is not
        waited for; of one that may still write, nothing is left when this returns. Raises `OSError` if no
        process can be started.
        """
        spare, self._spare = self._spare, None
        worker = await self._usable(spare)
        try:
            yield worker
        finally:
            ending = asyncio.create_task(self._end(worker))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
            if not worker.done:
                await asyncio.shield(ending)

    async def _end(self, worker: Worker) -> None:
        await worker.end()
        self.start()

    async def _usable(self, spare: asyncio.Task[Worker] | None) -> Worker:
        """The spare, or a new one if it could not be started or did not live until it was needed."""
        if spare is not None:
            with suppress(OSError):
                worker = await spare
                if worker.alive:
                    return worker
                log.warning("download.spare_died", pid=worker.pid)
                await worker.end()
        return await self._launch()

    async def _launch(self) -> Worker:
        environment = {
            **self._environment,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",  # its tokens outlive a revocation
            "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_ETAG_TIMEOUT": "10",
            "HF_HUB_DOWNLOAD_TIMEOUT": "30",
        }
        argv = [*child_python.COMMAND, "-m", "hubgate.backend.downloads.worker"]
        return Worker(await Child.start(argv, child_python.safe(environment), stdin=True))
