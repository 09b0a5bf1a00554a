"""Everything but vLLM: the real proxy, the real backend with its download workers, a demo Hub.

The engine is `tests/backend/fake_engine.py`, a process that the real supervisor starts with the
environment, the identity file and the gate's judge that vLLM gets.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec
import yaml

from hubgate.demo.hub import DemoHub
from hubgate.proxy import app, preflight
from hubgate.proxy.settings import ProxySettings
from hubgate.proxy.upstream import upstream_pool
from hubgate.runtime.config import load
from tests.backend import harness
from tests.fakes.engine import LOCAL, PATIENCE
from tests.fakes.raw import RawAnswer, ask, request
from tests.fakes.running_proxy import CHAT, MESSAGES, POLL, eventually
from tests.threats.recorder import Recorder


@dataclass(frozen=True, slots=True)
class Stack:
    """The running whole; `ears` hears every request to the Hub."""

    hub: DemoHub
    recorder: Recorder
    backend: harness.Running
    proxy: app.Proxy
    folder: Path

    @classmethod
    @asynccontextmanager
    async def start(cls, folder: Path, **backend: Any) -> AsyncIterator["Stack"]:
        """Start it in a folder, whose keys and store an earlier run may have left; see `running`."""
        recorder = Recorder()
        async with AsyncExitStack() as stack:
            stack.enter_context(recorder.listening())
            hub = await stack.enter_async_context(DemoHub.start())
            behind = await stack.enter_async_context(harness.running(folder, hub, **backend))
            stack.enter_context(patch.object(upstream_pool, "POLL_SECONDS", POLL))
            read = _settings(folder, hub, behind)
            proxy = await stack.enter_async_context(app.running(read, preflight.check(read)))
            whole = cls(hub, recorder, behind, proxy, folder)
            await eventually(whole._ready)
            yield whole

    async def chat(self, model: str, token: str, request_id: str = "the-same-id") -> RawAnswer:
        """One chat completion."""
        body = msgspec.json.encode({"model": model, "messages": MESSAGES})
        headers = [("Authorization", f"Bearer {token}"), ("X-Request-Id", request_id)]
        return await ask(self.proxy.port, request("POST", CHAT, headers, body))

    async def _ready(self) -> bool:
        return (await ask(self.proxy.admin_port, request("GET", "/readyz"))).status == 200


def _settings(folder: Path, hub: DemoHub, backend: harness.Running) -> ProxySettings:
    keys = backend.keyring
    path = folder / "proxy.yaml"
    text = {
        "listen": {"host": LOCAL, "port": 0},
        "admin": {"port": 0},
        "hub": {"endpoint": hub.endpoint, "timeout": PATIENCE},
        "callers": {"anyone": True},
        "models": {"allow": ["demo/*", "alice/*"]},
        "upstreams": [{"name": "gpu-0", "url": backend.url, "public_key_file": str(keys.backend_public)}],
        "seal": {"key_file": str(keys.proxy_private)},
        "audit": {"path": str(folder / "audit.jsonl")},
        "timeouts": {"drain": 0.2},
    }
    path.write_text(yaml.safe_dump(text), encoding="utf-8")
    return load(ProxySettings, path)
