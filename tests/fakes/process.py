"""The proxy as a process of its own, between the demo Hub and a fake backend that live in the test's.

async with ProxyProcess.start(tmp_path) as proxy:
answer = await ask(proxy.port, request("GET", "/health"))
proxy.process.send_signal(signal.SIGTERM)
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubgate.demo.hub import DemoHub
from hubgate.runtime import child_python
from tests.fakes.backend import FakeBackend
from tests.fakes.engine import RawEngine
from tests.fakes.raw import ask, request
from tests.fakes.running_proxy import eventually, surroundings


@dataclass(frozen=True, slots=True)
class ProxyProcess:
    """A running proxy and all that it talks to."""

    hub: DemoHub
    backend: FakeBackend
    process: asyncio.subprocess.Process
    port: int
    admin_port: int
    log: Path

    @classmethod
    @asynccontextmanager
    async def start(
        cls, folder: Path, settings: Mapping[str, Any] | None = None
    ) -> AsyncIterator["ProxyProcess"]:
        """Start everything, wait until the proxy is ready, and end it if the test has not."""
        async with AsyncExitStack() as stack:
            hub, (backend,), config = await surroundings(stack, folder, settings)
            log = folder / "proxy.log"
            process = await _spawn(stack, config, log)
            where = await _logged(log, "listening")
            proxy = cls(hub, backend, process, where["port"], where["admin_port"], log)
            await eventually(proxy._ready)
            yield proxy

    @property
    def engine(self) -> RawEngine:
        """The engine, which holds the base."""
        return self.backend.hosted[0].engine

    @property
    def said(self) -> str:
        """Everything that it has logged."""
        return self.log.read_text()

    async def logged(self, event: str) -> dict[str, Any]:
        """Wait for an event in the log."""
        return await _logged(self.log, event)

    def memory(self) -> int:
        """Resident bytes now."""
        return self._status("VmRSS")

    def peak(self) -> int:
        """The most resident bytes since `forget_peak`."""
        return self._status("VmHWM")

    def forget_peak(self) -> None:
        """Measure the peak anew from here (proc(5), clear_refs)."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def _status(self, name: str) -> int:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))

    async def _ready(self) -> bool:
        return (await ask(self.admin_port, request("GET", "/readyz"))).status == 200


async def _spawn(stack: AsyncExitStack, config: Path, log: Path) -> asyncio.subprocess.Process:
    command = [*child_python.COMMAND, "-m", "hubgate.cli", "proxy", "--config", str(config)]
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=file, stderr=file, env=dict(os.environ)
        )

    async def end() -> None:
        if process.returncode is None:
            process.kill()
            await process.wait()

    stack.push_async_callback(end)
    return process


async def _logged(log: Path, event: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = []

    async def there() -> bool:
        found.extend(entry for entry in _entries(log) if entry["event"] == event)
        return bool(found)

    await eventually(there)
    return found[0]


def _entries(log: Path) -> list[dict[str, Any]]:
    whole = log.read_text().rpartition("\n")[0]  # the last line may be half written
    return [json.loads(line) for line in whole.splitlines()]
