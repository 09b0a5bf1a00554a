"""A whole backend with the demo Hub before it and fake engines behind it, and a proxy's way to talk to it."""

import asyncio
import os
import random
import secrets
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from hubgate.backend.app import Checked, build, check
from hubgate.backend.background import Background
from hubgate.backend.cli import listen
from hubgate.backend.engines.argv import Launch
from hubgate.backend.engines.gpus import Gpus
from hubgate.backend.settings import BackendSettings
from hubgate.backend.vllm_args import render
from hubgate.demo.hub import DemoHub
from hubgate.runtime.tls import TlsFiles
from hubgate.wire import control_api, seal
from hubgate.wire.certificates import Kind
from hubgate.wire.control_api import GRANT_HEADER, EnsureRequest, Event, Hello, LoadFailed, Progress, Ready
from hubgate.wire.seal import Grant, ScopedToken, control_grant, sign_grant
from tests.fakes.keyring import Keyring
from tests.fakes.running_proxy import eventually

FAKE = str(Path(__file__).with_name("fake_engine.py"))
BASE = "demo/tiny-llama"


def free_ports(count: int) -> int:
    """The first of `count` free ports in a row, below those that outgoing connections are given."""
    while True:
        first = random.randrange(12000, 32000)  # noqa: S311 - other tests look at the same time
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first


def fake_argv(launch: Launch) -> list[str]:
    """The fake engine in the place of vLLM; `vllm_args` are its switches."""
    places = f"--places={launch.max_cpu_loras}"
    return [sys.executable, FAKE, "--port", str(launch.port), places, *render(launch.vllm_args)]


class Running:
    """A backend that runs, seen from a proxy."""

    def __init__(
        self,
        settings: BackendSettings,
        keyring: Keyring,
        hub: DemoHub,
        session: aiohttp.ClientSession,
        tls: TlsFiles | None = None,
    ) -> None:
        self.settings = settings
        self.tls = tls
        self.scheme = "http" if tls is None else "https"
        self.url = f"{self.scheme}://127.0.0.1:{settings.listen.port}"
        self.keyring = keyring
        self.hub = hub
        self.session = session
        self.failures: list[str] = []

    def secure(self, kind: Kind = "backend") -> dict[str, Any]:
        """How a proxy connects."""
        return {} if self.tls is None else {"ssl": self.tls.context(kind), "server_hostname": "gpu-0"}

    async def hello(self) -> Hello:
        """Ask, and believe only what is signed and answers this very question."""
        grant, nonce = control_grant(self.keyring.proxy.signing, aud="gpu-0", boot="", now=time.time())
        headers = {GRANT_HEADER: grant}
        async with self.session.get(f"{self.url}/v1/hello", headers=headers, **self.secure()) as response:
            assert response.status == 200
            assert response.content_type == "application/jose"
            signed = await response.read()
        hello = msgspec.json.decode(
            seal.verify_hello(signed, self.keyring.backend_half.verifying), type=Hello
        )
        assert hello.nonce == nonce
        return hello

    def sha(self, repo: str) -> str:
        """`org/name@sha` as the Hub has it now."""
        return f"{repo}@{self.hub.state.sha(repo)}"

    async def scoped(self, base: str, adapter: str | None = None, who: str = "alice", **changes: Any) -> str:
        """A scoped token as a proxy seals it."""
        now = int(time.time())
        token = ScopedToken(
            token=self.hub.token(who),
            base=base,
            adapter=adapter,
            sub="somebody",
            aud="gpu-0",
            boot=(await self.hello()).boot,
            jti=secrets.token_hex(8),
            iat=now,
            exp=now + 60,
        )
        keys = self.keyring
        return seal.seal_token(
            msgspec.structs.replace(token, **changes), keys.proxy.signing, keys.backend_half.sealing
        )

    @asynccontextmanager
    async def asked(self, sealed: str) -> AsyncIterator[aiohttp.ClientResponse]:
        """Ensure with this token: the answer as it comes."""
        boot = (await self.hello()).boot
        grant, _ = control_grant(self.keyring.proxy.signing, aud="gpu-0", boot=boot, now=time.time())
        body = msgspec.json.encode(EnsureRequest(token=sealed))
        async with self.session.post(
            f"{self.url}/v1/ensure", data=body, headers={GRANT_HEADER: grant}, **self.secure()
        ) as response:
            yield response

    async def post(self, sealed: str) -> tuple[int, list[Any]]:
        """Ensure with this token: the status, and the lines of the answer."""
        async with self.asked(sealed) as response:
            lines = (await response.read()).splitlines()
        kind: Any = Event if response.status == 200 else Any
        return response.status, [msgspec.json.decode(line, type=kind) for line in lines]

    async def ensure(self, base: str, adapter: str | None = None, who: str = "alice") -> Ready | LoadFailed:
        """Ensure, and the last word of it."""
        status, events = await self.post(await self.scoped(base, adapter, who))
        assert status == 200
        *before, last = events
        assert all(isinstance(event, Progress) for event in before)
        assert isinstance(last, Ready | LoadFailed)
        return last

    async def ready(self, base: str, adapter: str | None = None, who: str = "alice") -> Ready:
        """Ensure, which succeeds."""
        last = await self.ensure(base, adapter, who)
        assert isinstance(last, Ready), last
        return last

    async def failed(self, base: str, adapter: str | None = None, who: str = "alice") -> LoadFailed:
        """Ensure, which fails."""
        last = await self.ensure(base, adapter, who)
        assert isinstance(last, LoadFailed), last
        return last

    async def use(self, engine: control_api.EngineInfo, model: str, **fields: Any) -> tuple[int, Any]:
        """A request straight to an engine, with a grant."""
        now = int(time.time())
        grant = Grant(
            kind="use",
            sub="somebody",
            model=model,
            aud=engine.id,
            boot=engine.boot,
            jti="1",
            iat=now,
            exp=now + 60,
        )
        headers = {GRANT_HEADER: sign_grant(grant, self.keyring.proxy.signing)}
        url = f"{self.scheme}://127.0.0.1:{engine.port}/v1/completions"
        body = {"model": model, **fields}
        async with self.session.post(url, json=body, headers=headers, **self.secure("engine")) as response:
            return response.status, await response.json(content_type=None) if response.status == 200 else None

    @asynccontextmanager
    async def busy(self, engine: control_api.EngineInfo, model: str) -> AsyncIterator[Path]:
        """While the engine answers a request: until the end of the block, or of the file."""
        held = self.settings.store.path.with_name(f"held-{secrets.token_hex(4)}")
        request = asyncio.create_task(self.use(engine, model, held=str(held)))

        async def come() -> bool:
            return held.exists()

        try:
            await eventually(come)
            yield held
        finally:
            held.unlink(missing_ok=True)
        assert (await request)[0] == 200

    async def metrics(self) -> str:
        async with self.session.get(f"{self.url}/metrics", **self.secure()) as response:
            return await response.text()

    async def until_state(self, state: str, seconds: float = 10) -> Hello:
        """Wait until the only engine is in this state; `absent` until there is none."""
        async with asyncio.timeout(seconds):
            while True:
                hello = await self.hello()
                states = {engine.state for engine in hello.engines} or {"absent"}
                if states == {state}:
                    return hello
                await asyncio.sleep(0.05)


def settings_for(folder: Path, keyring: Keyring, hub: DemoHub, /, **changes: Any) -> BackendSettings:
    """A configuration on free ports; `changes` go into the sections."""
    port = free_ports(8)
    values: dict[str, Any] = {
        "listen": {"host": "127.0.0.1", "port": port},
        "name": "gpu-0",
        "seal": {"key_file": keyring.backend_private, "proxies_file": keyring.proxy_public},
        "hub": {"endpoint": hub.endpoint},
        "store": {"path": folder / "store", "max_bytes": 10**8, "max_model_bytes": 10**8, "linger": 60},
        "engines": {
            "host": "127.0.0.1",
            "first_port": port + 1,
            "on_demand": ["demo/*"],
            "min_residency": 0.01,
            "start_timeout": 20,
        },
        "adapters": {"max_loras": 2, "max_cpu_loras": 2, "max_rank": 16, "max_bytes": 10**7},
    }
    for section, keys in changes.items():
        values[section] = {**values[section], **keys}
    return BackendSettings(**values)


@asynccontextmanager
async def running(
    folder: Path, hub: DemoHub, /, gpus: Gpus | None = None, tls: TlsFiles | None = None, **changes: Any
) -> AsyncIterator[Running]:
    """Start a backend with fake engines, and end it; with `tls`, which is a proxy's, it must listen so."""
    if not (folder / "keys").exists():
        Keyring.make(folder / "keys")
    keyring = Keyring(*((folder / "keys" / name) for name in NAMES))
    settings = settings_for(folder, keyring, hub, **changes)
    tokens = {name: value for name, value in os.environ.items() if name.startswith("HF_TOKEN")}
    checked: Checked = replace(check(settings, tokens, lambda: gpus, lambda: "vllm"), make_argv=fake_argv)
    failures: list[str] = []
    app = build(settings, checked, Background(lambda: failures.append("died")))
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
    async with aiohttp.ClientSession() as session:
        await runner.setup()
        try:
            await listen(runner, settings, checked)
            yield Running(settings, keyring, hub, session, tls)
        finally:
            await runner.cleanup()
    assert not failures


NAMES = ("hubgate_proxy.key", "hubgate_proxy.pub", "hubgate_backend.key", "hubgate_backend.pub")
