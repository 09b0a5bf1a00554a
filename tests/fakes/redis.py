"""A real Redis on a port of its own, which can die, hang and come back.

async with Redis.start(folder, password="p") as redis:
    redis.url                 # redis://:p@127.0.0.1:<port>/0
    await redis.die()         # SIGKILL
    await redis.back()        # the same port, empty
"""

import asyncio
import shutil
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import redis.asyncio as client
from redis.exceptions import RedisError

from tests.fakes.engine import LOCAL
from tests.fakes.running_proxy import eventually


@dataclass(slots=True)
class Redis:
    """One server process; it keeps nothing on disk."""

    folder: Path
    port: int
    password: str | None
    _process: asyncio.subprocess.Process | None = None

    @classmethod
    @asynccontextmanager
    async def start(cls, folder: Path, password: str | None = None) -> AsyncIterator["Redis"]:
        """Run it until the context ends."""
        server = cls(folder, _free_port(), password)
        try:
            await server.back()
            yield server
        finally:
            await server.die()

    @property
    def url(self) -> str:
        return self.address(self.password)

    def address(self, password: str | None) -> str:
        """The URL with another password."""
        return f"redis://{f':{password}@' if password else ''}{LOCAL}:{self.port}/0"

    async def back(self) -> None:
        """Start the process, and wait until it answers."""
        config = self.folder / "redis.conf"
        lines = [f"bind {LOCAL}", f"port {self.port}", 'save ""', "appendonly no", f"dir {self.folder}"]
        lines += [f"requirepass {self.password}"] if self.password else []
        config.write_text("\n".join(lines) + "\n")
        program = shutil.which("redis-server")
        assert program is not None, "there is no redis-server; `make debian` installs what tests need"
        with (self.folder / "redis.log").open("ab") as out:
            self._process = await asyncio.create_subprocess_exec(
                "setpriv", "--pdeathsig", "KILL", program, str(config), stdout=out, stderr=out
            )
        async with self.client() as asking:

            async def answers() -> bool:
                assert self._process is not None
                assert self._process.returncode is None, (self.folder / "redis.log").read_text()
                try:
                    return bool(await asking.ping())
                except (RedisError, OSError):
                    return False

            await eventually(answers)

    async def die(self) -> None:
        """End it as a crash does."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    def freeze(self) -> None:
        """Leave connections open and answer nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def client(self) -> client.Redis:
        """A client of the test's own."""
        return client.Redis.from_url(self.url, decode_responses=True)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind((LOCAL, 0))
        port: int = taken.getsockname()[1]
        return port
