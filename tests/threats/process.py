"""`hubgate proxy` as a process of its own, in the place of an `Edge`'s, with everything that it says."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import yaml

from hubgate.runtime import child_python
from tests.fakes.engine import PATIENCE
from tests.fakes.raw import RawAnswer, ask, request
from tests.fakes.running_proxy import Edge, eventually


@dataclass(slots=True)
class ProxyProcess:
    """A running one; `said` is all of its output so far."""

    process: asyncio.subprocess.Process
    port: int = 0
    admin_port: int = 0
    said: bytearray = field(default_factory=bytearray)

    async def logged(self, event: str) -> dict[str, Any]:
        """Read the log up to an event."""
        assert self.process.stderr is not None
        async with asyncio.timeout(PATIENCE):
            async for line in self.process.stderr:
                self.said += line
                found: dict[str, Any] = json.loads(line)
                if found["event"] == event:
                    return found
        raise AssertionError(f"{event} was never logged")

    async def models(self, token: str) -> RawAnswer:
        """Who lists models was let in."""
        headers = [("Authorization", f"Bearer {token}")]
        return await ask(self.port, request("GET", "/v1/models", headers))

    async def end(self) -> None:
        """Stop it, and read what it still says."""
        self.process.terminate()
        out, err = await self.process.communicate()
        self.said += out + err


@asynccontextmanager
async def proxy_process(
    edge: Edge, *, limits: Sequence[str] = (), **sections: Any
) -> AsyncIterator[ProxyProcess]:
    """Start one with the configuration of an `Edge` and an audit of its own beside the other's.

    `limits` are those of the process, as the shell's `ulimit` takes them.
    """
    settings = yaml.safe_load(edge.config.read_text(encoding="utf-8"))
    folder = edge.config.parent / "process"
    folder.mkdir()
    path = folder / "proxy.yaml"
    own = {"audit": {"path": str(folder / "audit.jsonl")}, **sections}
    path.write_text(yaml.safe_dump({**settings, **own}), encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        "sh",
        "-c",
        "".join([f"ulimit {limit} && " for limit in limits]) + 'exec "$@"',
        "sh",
        *(*child_python.COMMAND, "-m", "hubgate.cli", "proxy", "--config", str(path)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if "TOKEN" not in name},
    )
    running = ProxyProcess(process)
    try:
        where = await running.logged("listening")
        running.port, running.admin_port = where["port"], where["admin_port"]

        async def ready() -> bool:
            return (await ask(running.admin_port, request("GET", "/readyz"))).status == 200

        await eventually(ready)
        yield running
    finally:
        if process.returncode is None:
            await running.end()
