"""The real proxy, in this process, between the demo Hub and fake backends.

    async with Edge.start(tmp_path, {"limits": {"requests_per_minute": 2}}) as edge:
        answer = await edge.chat(token=BOB)
        assert answer.status == 200
        assert edge.engine.requests[-1].header("x-hubgate-grant")

The one engine of the first backend holds the base when it starts. What the proxy does not allow to be
configured, it does not allow here either: the settings go through a YAML file, as everybody's do.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import aiohttp
import msgspec
import yaml
from openai import AsyncOpenAI
from prometheus_client.parser import text_string_to_metric_families

from hubgate.demo.hub import DemoHub
from hubgate.proxy import app, preflight
from hubgate.proxy.audit import chain
from hubgate.proxy.settings import ProxySettings
from hubgate.proxy.upstream import upstream_pool
from hubgate.runtime.config import load
from tests.fakes.answers import completion
from tests.fakes.backend import FakeBackend
from tests.fakes.engine import LOCAL, PATIENCE, RawEngine
from tests.fakes.keyring import Keyring
from tests.fakes.raw import RawAnswer, ask, request

ALICE, BOB = "hf_demo_alice", "hf_demo_bob"
BASE = "demo/tiny-llama"  # gated; alice and bob may read it
PRIVATE = "alice/pirate-lora"  # alice's alone
PUBLIC = "demo/public-lora"
MISSING = "alice/nobody-lora"  # as long as PRIVATE
POLL = 0.05  # seconds between two hellos; the product's second is long for a test

MESSAGES = [{"role": "user", "content": "hello"}]
CHAT = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Tls:
    """What control APIs and engines listen with, and `upstreams[].tls` of the proxy; each if there is any."""

    control: ssl.SSLContext | None
    engines: ssl.SSLContext | None
    shown: Mapping[str, str] | None


@dataclass(frozen=True, slots=True)
class Edge:
    """A running proxy and all that it talks to."""

    hub: DemoHub
    backends: Sequence[FakeBackend]
    engines: Sequence[RawEngine]
    settings: ProxySettings
    checked: preflight.Checked
    proxy: app.Proxy
    config: Path
    stop: Callable[[], Coroutine[None, None, None]]  # end the proxy now, and not with the context
    _http: aiohttp.ClientSession
    _stack: AsyncExitStack

    @classmethod
    @asynccontextmanager
    async def start(
        cls,
        folder: Path,
        settings: Mapping[str, Any] | None = None,
        *,
        backends: Sequence[str] = ("gpu-0",),
        ready: bool = True,
        clocks: app.Clocks = app.CLOCKS,
        tls: Tls | None = None,
    ) -> AsyncIterator["Edge"]:
        """Start everything; `settings` go over the ones below, section by section.

        With `tls`, backends and engines have it. With `ready` false it does not wait for the first hello.
        Raises `ConfigError`.
        """
        async with AsyncExitStack() as stack:
            hub, fakes, config = await surroundings(stack, folder, settings, backends, tls)
            read = load(ProxySettings, config)
            checked = preflight.check(read)
            stack.enter_context(patch.object(upstream_pool, "POLL_SECONDS", POLL))
            running = await stack.enter_async_context(AsyncExitStack())
            proxy = await running.enter_async_context(app.running(read, checked, clocks))
            http = await stack.enter_async_context(aiohttp.ClientSession())
            engines = [fake.hosted[0].engine for fake in fakes]
            edge = cls(hub, fakes, engines, read, checked, proxy, config, running.aclose, http, stack)
            if ready:
                await edge.until_ready()
            yield edge

    @asynccontextmanager
    async def twin(self, **sections: Any) -> AsyncIterator["Edge"]:
        """A second proxy with the same keys, between the same Hub and backends."""
        config = self.config.with_name("twin.yaml")
        values = yaml.safe_load(self.config.read_text())
        audit_file = {"path": str(self.config.with_name("twin.jsonl"))}
        config.write_text(yaml.safe_dump({**values, "audit": audit_file, **sections}))
        read = load(ProxySettings, config)
        checked = preflight.check(read)
        async with AsyncExitStack() as running:
            proxy = await running.enter_async_context(app.running(read, checked))
            edge = replace(
                self, settings=read, checked=checked, proxy=proxy, config=config, stop=running.aclose
            )
            await edge.until_ready()
            yield edge

    @property
    def port(self) -> int:
        return self.proxy.port

    @property
    def url(self) -> str:
        return f"http://{LOCAL}:{self.port}"

    @property
    def admin_url(self) -> str:
        return f"http://{LOCAL}:{self.proxy.admin_port}"

    @property
    def engine(self) -> RawEngine:
        """The first backend's engine."""
        return self.engines[0]

    @property
    def backend(self) -> FakeBackend:
        return self.backends[0]

    def at(self, repo: str, revision: str = "main") -> str:
        """`org/name@sha`, as the demo Hub has it now."""
        return f"{repo}@{self.hub.state.sha(repo, revision)}"

    def sdk(self, token: str = ALICE, **options: Any) -> AsyncOpenAI:
        """The unmodified OpenAI SDK; without retries unless asked for."""
        options = {"base_url": f"{self.url}/v1", "max_retries": 0, "timeout": PATIENCE, **options}
        client = AsyncOpenAI(api_key=token, **options)
        self._stack.push_async_callback(client.close)
        return client

    async def ask(
        self,
        method: str,
        target: str,
        token: str | None = ALICE,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes | None = None,
    ) -> RawAnswer:
        """One request on a connection of its own; `token` None sends no credential."""
        auth = [("Authorization", f"Bearer {token}")] if token is not None else []
        return await ask(self.port, request(method, target, [*auth, *headers], body))

    async def post(self, path: str, body: Any, token: str | None = ALICE) -> RawAnswer:
        """One JSON body."""
        return await self.ask("POST", path, token, body=msgspec.json.encode(body))

    async def chat(self, model: str = BASE, token: str | None = ALICE, **fields: Any) -> RawAnswer:
        """One chat completion; further fields of the body by name."""
        return await self.post(CHAT, {"model": model, "messages": MESSAGES, **fields}, token)

    async def admin(self, path: str) -> tuple[int, str]:
        """Ask the admin port; gives status and text."""
        async with self._http.get(self.admin_url + path) as answer:
            return answer.status, await answer.text()

    async def metric(self, sample: str, **labels: str) -> float:
        """The sum of all samples of that name that carry these labels; 0 if there is none."""
        _, text = await self.admin("/metrics")
        return sum(
            found.value
            for family in text_string_to_metric_families(text)
            for found in family.samples
            if found.name == sample and labels.items() <= found.labels.items()
        )

    async def records(self, count: int, *events: str) -> list[dict[str, Any]]:
        """Wait until the trail holds so many records (of these events); gives them all.

        Without events, those of requests in flight are left out: a slow machine has more of them.
        """

        def found() -> list[dict[str, Any]]:
            every = chain.records(self.settings.audit.path)
            return [
                record
                for record in every
                if (record["event"] in events if events else record["event"] != "request.granted")
            ]

        async def enough() -> bool:
            return len(found()) >= count

        await eventually(enough)
        return found()

    def verify(self) -> chain.Verdict:
        """What `hubgate audit verify` would say now."""
        return chain.verify(self.settings.audit.path, self.checked.keys.current().derive("audit"))

    def hub_calls(self, user: str | None = None) -> list[str]:
        """What the Hub was asked, in order; of one user if named."""
        entries = [entry for entry in self.hub.log if user is None or entry.user == user]
        return [f"{entry.method} {entry.path}" for entry in entries]

    async def until_ready(self) -> None:
        """Wait until the proxy knows a backend."""

        async def ready() -> bool:
            return (await self.admin("/readyz"))[0] == 200

        await eventually(ready)

    async def until_down(self) -> None:
        """Wait until the proxy knows that no backend is up."""

        async def down() -> bool:
            return (await self.admin("/readyz"))[0] == 503

        await eventually(down)


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until this is true; for what can be seen from outside only."""
    async with asyncio.timeout(PATIENCE):
        while not await condition():  # noqa: ASYNC110 - nothing in here can be told of it
            await asyncio.sleep(0.005)


async def surroundings(
    stack: AsyncExitStack,
    folder: Path,
    settings: Mapping[str, Any] | None = None,
    backends: Sequence[str] = ("gpu-0",),
    tls: Tls | None = None,
) -> tuple[DemoHub, list[FakeBackend], Path]:
    """All that a proxy talks to, and its configuration."""
    hub = await stack.enter_async_context(DemoHub.start())
    fakes = [await _backend(stack, hub, folder / name, name, tls) for name in backends]
    below = _defaults(folder, hub, fakes)
    if tls is not None:
        for upstream in below["upstreams"]:
            upstream["url"] = upstream["url"].replace("https:", "http:")
            if tls.shown is not None:
                upstream["tls"] = dict(tls.shown)
                upstream["url"] = upstream["url"].replace("http:", "https:")
    return hub, fakes, _written(folder, _merged(below, settings or {}))


async def _backend(
    stack: AsyncExitStack, hub: DemoHub, folder: Path, name: str, tls: Tls | None
) -> FakeBackend:
    ring = Keyring.make(folder)
    control, engines = (tls.control, tls.engines) if tls is not None else (None, None)
    backend = await stack.enter_async_context(FakeBackend.start(ring, name, control))
    engine = await stack.enter_async_context(RawEngine.start(engines))
    engine.always(completion())
    backend.host(engine, f"{BASE}@{hub.state.sha(BASE)}", id=f"{name}-engine-1")
    return backend


def _written(folder: Path, settings: Mapping[str, Any]) -> Path:
    config = folder / "proxy.yaml"
    config.write_text(yaml.safe_dump(settings))
    return config


def _defaults(folder: Path, hub: DemoHub, backends: Sequence[FakeBackend]) -> dict[str, Any]:
    # The proxy signs with the first backend's ring; the others are told to believe it.
    own = backends[0].ring
    for backend in backends[1:]:
        backend.ring.proxy_public.write_bytes(own.proxy_public.read_bytes())
    upstreams = [
        {"name": fake.name, "url": fake.url, "public_key_file": str(fake.ring.backend_public)}
        for fake in backends
    ]
    return {
        "listen": {"host": LOCAL, "port": 0},
        "admin": {"port": 0},
        "hub": {"endpoint": hub.endpoint, "timeout": PATIENCE},
        "callers": {"anyone": True},
        "limits": {"refusals_per_minute": 1_000_000},  # all callers of a test come from one address
        "models": {"allow": ["demo/*", "alice/*"]},
        "upstreams": upstreams,
        "seal": {"key_file": str(own.proxy_private)},
        "audit": {"path": str(folder / "audit.jsonl")},
        "timeouts": {"drain": 0.2},
    }


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(below.get(key), dict) and key != "callers"
        merged[key] = _merged(below[key], value) if both else value
    return merged
