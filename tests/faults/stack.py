"""Everything but vLLM: the real proxy, the real backend with its download workers, a demo Hub.

The backend can be restarted, the proxy's wall clock set, and engines told to fail.
"""

import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any
from unittest.mock import patch

import msgspec
import yaml

from hubgate.backend import app as backend_app
from hubgate.backend.downloads.attempt import Patience
from hubgate.backend.engines import lifecycle
from hubgate.backend.engines.argv import Launch
from hubgate.backend.engines.client import EngineClient
from hubgate.backend.vllm_args import render
from hubgate.demo.hub import DemoHub
from hubgate.proxy import app, preflight
from hubgate.proxy.audit import chain
from hubgate.proxy.limits import loads
from hubgate.proxy.settings import ProxySettings
from hubgate.proxy.upstream import upstream_pool
from hubgate.runtime.config import load
from tests.backend import harness
from tests.backend.harness import Running
from tests.fakes.engine import LOCAL, PATIENCE
from tests.fakes.raw import RawAnswer, ask, request
from tests.fakes.running_proxy import CHAT, MESSAGES, POLL, eventually
from tests.faults.engine import OPTION
from tests.faults.switches import Switches

# What takes an operator's machine seconds takes a test less; how often is tried stays as it is.
ROOT = Path(__file__).parents[2]
_CALL = 1.0  # seconds that an engine has for what it answers at once
_GRACE = 0.5  # seconds between SIGTERM and SIGKILL


# For download workers: `/dev/full` in the place of a partial file, whose writes fail as those on a full
# disk (full(4)).
_DISK = """
import io, pathlib
real, switch = io.open, pathlib.Path("{folder}") / "disk-full"
def full(file, mode="r", *args, **kwargs):
    if str(file).endswith(".incomplete") and switch.exists():
        file = "/dev/full"
        with real(str(switch) + ".fired", "a") as told:
            told.write("x")
    return real(file, mode, *args, **kwargs)
io.open = full
"""


class WallClock:
    """The proxy's `time.time`; `ahead` is by how many seconds it is wrong."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


class Stack:
    """The running whole; `caller` is whose token every request carries."""

    def __init__(self, hub: DemoHub, folder: Path) -> None:
        self.hub = hub
        self.folder = folder
        self.switches = Switches(folder / "switches")
        self.clock = WallClock()
        self.caller = hub.token("alice")
        self.backend: Running
        self.proxy: app.Proxy
        self._changes: dict[str, Any] = {}
        self._backend_stack = AsyncExitStack()

    @classmethod
    @asynccontextmanager
    async def start(
        cls,
        folder: Path,
        hub: DemoHub,
        *,
        engines: Mapping[str, Any] = MappingProxyType({}),
        cold_start: Mapping[str, Any] = MappingProxyType({}),
    ) -> AsyncIterator["Stack"]:
        """Start proxy and backend in an empty folder; the settings go over those of every test."""
        async with AsyncExitStack() as stack:
            whole = cls(hub, folder)
            for name in ("switches", "scratch", "site"):
                (folder / name).mkdir()
            (folder / "site" / "sitecustomize.py").write_text(_DISK.format(folder=folder / "switches"))
            stack.enter_context(whole._patched())
            await stack.enter_async_context(whole._backend_stack)
            await whole._start_backend({"engines": {"max_running": 2, **engines}})
            settings = whole._settings(cold_start)
            clocks = app.Clocks(now=whole.clock)
            proxy = app.running(settings, preflight.check(settings), clocks)
            whole.proxy = await stack.enter_async_context(proxy)
            await whole.until_up()
            yield whole

    async def restart_backend(self) -> None:
        """End it as SIGTERM does, with its engines, and start it again at the same addresses."""
        await self._backend_stack.aclose()
        await self._start_backend(self._changes)

    async def post(self, body: Mapping[str, Any]) -> RawAnswer:
        """One chat."""
        return await ask(self.proxy.port, self.sent(body))

    def sent(self, body: Mapping[str, Any]) -> bytes:
        """The bytes of a chat."""
        content = msgspec.json.encode({"messages": MESSAGES, **body})
        return request("POST", CHAT, [("Authorization", f"Bearer {self.caller}")], content)

    async def know(self, model: str) -> None:
        """Let the proxy learn that the caller may use this model, and load nothing."""
        auth = [("Authorization", f"Bearer {self.caller}")]
        answer = await ask(self.proxy.port, request("GET", f"/v1/models/{model}", auth))
        assert answer.status == 200

    async def until_up(self, *, up: bool = True) -> None:
        """Wait until the proxy believes its backend, or until it does not."""

        async def decided() -> bool:
            answer = await ask(self.proxy.admin_port, request("GET", "/readyz"))
            return answer.status == (200 if up else 503)

        await eventually(decided)

    def audited(self, status: int) -> list[str]:
        """The reasons in the audit records of requests that ended so."""
        records = chain.records(self.folder / "audit.jsonl")
        return [record["reason"] for record in records if record.get("status") == status]

    async def _start_backend(self, changes: dict[str, Any]) -> None:
        self.backend = await self._backend_stack.enter_async_context(
            harness.running(self.folder, self.hub, **changes)
        )
        settings = self.backend.settings
        self._changes = {
            "listen": {"port": settings.listen.port},
            "engines": {**changes["engines"], "first_port": settings.engines.first_port},
        }

    @contextmanager
    def _patched(self) -> Iterator[None]:
        with ExitStack() as stack:
            for each in (
                patch.object(upstream_pool, "POLL_SECONDS", POLL),
                patch.object(loads, "AGAIN", 0.0),
                patch.object(harness, "fake_argv", self._argv),
                patch.object(backend_app, "Patience", partial(Patience, pause=0.05)),
                patch.object(lifecycle, "GRACE", _GRACE),
                patch.dict(EngineClient._call.__kwdefaults__, timeout=_CALL),
                patch.dict(os.environ, PYTHONPATH=f"{self.folder / 'site'}{os.pathsep}{ROOT}"),
                patch.object(tempfile, "tempdir", str(self.folder / "scratch")),
            ):
                stack.enter_context(each)
            yield

    def _argv(self, launch: Launch) -> Sequence[str]:
        program = [sys.executable, "-m", "tests.faults.engine", "--port", str(launch.port)]
        return [*program, f"{OPTION}{self.switches.folder}", *render(launch.vllm_args)]

    def _settings(self, cold_start: Mapping[str, Any]) -> ProxySettings:
        keys, path = self.backend.keyring, self.folder / "proxy.yaml"
        upstream = {"name": "gpu-0", "url": self.backend.url, "public_key_file": str(keys.backend_public)}
        text = {
            "listen": {"host": LOCAL, "port": 0},
            "admin": {"port": 0},
            "hub": {"endpoint": self.hub.endpoint, "timeout": PATIENCE},
            "callers": {"anyone": True},
            "models": {"allow": ["demo/*"]},
            "upstreams": [upstream],
            "seal": {"key_file": str(keys.proxy_private)},
            "audit": {"path": str(self.folder / "audit.jsonl")},
            "timeouts": {"drain": 0.2},
            "cold_start": dict(cold_start),
        }
        path.write_text(yaml.safe_dump(text), encoding="utf-8")
        return load(ProxySettings, path)
