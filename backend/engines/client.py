"""What the supervisor says to one engine, with control grants that it signs itself."""

import asyncio
import time
from pathlib import Path
from typing import TypeVar

import aiohttp
import msgspec
from aiohttp.http_exceptions import HttpProcessingError
from joserfc.jwk import OKPKey

from hubgate.backend.engines.engine_tls import SupervisorTls
from hubgate.backend.plugin.traffic import Status
from hubgate.runtime.tls import of_tls, reason
from hubgate.wire import endpoints
from hubgate.wire.control_api import GRANT_HEADER, LoadAdapter, UnloadAdapter
from hubgate.wire.seal import control_grant

# vLLM closes idle connections after 5 s (VLLM_HTTP_TIMEOUT_KEEP_ALIVE): ours must be younger.
KEEP_ALIVE = 4.0
QUICK = 10.0  # seconds, for what answers at once
LOAD = 300.0  # seconds, for an adapter
SLEEP = 300.0  # seconds, for all weights on their way to host memory, or back
FIRST_TOKEN = 120.0  # seconds; the first request may still compile

MAX_ANSWER = 16 << 20  # bytes; the metrics of a busy engine are some hundred KiB

_FAILURES = (aiohttp.ClientError, HttpProcessingError, asyncio.TimeoutError, OSError, ValueError)


Answer = TypeVar("Answer", bound=msgspec.Struct)


class Loaded(msgspec.Struct, frozen=True):
    """Whether it was loaded by this call, or was there before."""

    loaded: bool


class EngineError(Exception):
    """The engine refused, failed or is gone. The text is for the log, not for callers."""


class SilentEngineError(EngineError):
    """It gave no answer, so this says nothing of what it was asked."""


def new_session(keep_alive: float = KEEP_ALIVE) -> aiohttp.ClientSession:
    """The HTTP client for all engines: no proxies of the environment, no cookies."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(keepalive_timeout=keep_alive, use_dns_cache=False),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        timeout=aiohttp.ClientTimeout(total=QUICK),
    )


class EngineClient:
    """One engine during one boot of it."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        signing: OKPKey,
        url: str,
        *,
        engine: str,
        boot: str,
        tls: SupervisorTls | None = None,
    ) -> None:
        self._tls = tls
        self._session = session
        self._signing = signing
        self._url = url
        self._engine = engine
        self._boot = boot
        self._tasks: tuple[str, ...] = ()  # of its model; the same during a boot

    async def is_healthy(self) -> bool:
        """Whether the server is up; it may not be able to answer a request for all that."""
        try:
            await self._call("GET", "/health")
        except EngineError:
            return False
        return True

    async def generate(self, model: str, timeout: float = FIRST_TOKEN) -> None:
        """One token, or one vector: the proof that the model answers. Raises `EngineError`.

        A model that only pools has no completions, but `/pooling` whatever it pools for
        (vllm/entrypoints/pooling/factories.py, `register_pooling_api_routers`).
        """
        self._tasks = self._tasks or (await self.status()).tasks
        if "generate" in self._tasks:
            path, question = endpoints.COMPLETIONS, {"model": model, "prompt": "Hi", "max_tokens": 1}
        else:
            path, question = "/pooling", {"model": model, "input": "Hi"}
        await self._call("POST", path, msgspec.json.encode(question), timeout=timeout)

    async def load(self, name: str, path: Path) -> bool:
        """Load an adapter; `False` if it was there before. Raises `EngineError`."""
        body = msgspec.json.encode(LoadAdapter(name=name, path=str(path)))
        return _decoded(await self._call("POST", endpoints.LOAD_ADAPTER, body, timeout=LOAD), Loaded).loaded

    async def unload(self, name: str) -> None:
        """Take an adapter out, name and weights, when its last request is done. Raises `EngineError`."""
        body = msgspec.json.encode(UnloadAdapter(name=name))
        await self._call("POST", endpoints.UNLOAD_ADAPTER, body, timeout=LOAD)

    async def status(self) -> Status:
        """What it is doing. Raises `EngineError`."""
        return _decoded(await self._call("GET", endpoints.STATUS), Status)

    async def drain(self) -> Status:
        """Let no new request in, unless it sleeps and is woken up. Raises `EngineError`."""
        return _decoded(await self._call("POST", endpoints.DRAIN, b""), Status)

    async def sleep(self) -> None:
        """Give up the GPU's memory and all adapters; it must be drained. Raises `EngineError`."""
        await self._call("POST", endpoints.SLEEP, b"", timeout=SLEEP)

    async def wake(self) -> None:
        """Take the GPU's memory back, and let requests in. Raises `EngineError`."""
        await self._call("POST", endpoints.WAKE, b"", timeout=SLEEP)

    async def metrics(self) -> str:
        """Its own exposition. Raises `EngineError`."""
        return (await self._call("GET", "/metrics")).decode(errors="replace")

    async def _call(
        self, method: str, path: str, body: bytes | None = None, *, timeout: float = QUICK
    ) -> bytes:
        grant, _ = control_grant(self._signing, aud=self._engine, boot=self._boot, now=time.time())
        headers, tls = {GRANT_HEADER: grant, "Content-Type": "application/json"}, self._tls
        try:
            async with self._session.request(
                method,
                self._url + path,
                data=body,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=timeout),
                allow_redirects=False,
                ssl=True if tls is None else tls.files.context("engine"),
                server_hostname=None if tls is None else tls.name,
            ) as response:
                content = await _read(response.content)
        except _FAILURES as error:
            fault = of_tls(error)
            why = type(error).__name__ if fault is None else reason(fault)
            raise SilentEngineError(f"{method} {path}: {why}") from error
        if response.status != 200:
            text = content[:500].decode(errors="replace")
            raise EngineError(f"{method} {path}: {response.status} {text}")
        return content


async def _read(body: aiohttp.StreamReader) -> bytes:
    """The whole of it. Raises `SilentEngineError` for more than anything that we ask for is."""
    content = bytearray()
    while chunk := await body.readany():
        content += chunk
        if len(content) > MAX_ANSWER:
            raise SilentEngineError(f"an answer of more than {MAX_ANSWER} bytes")
    return bytes(content)


def _decoded(content: bytes, kind: type[Answer]) -> Answer:
    try:
        return msgspec.json.decode(content, type=kind)
    except (ValueError, RecursionError):  # whoever has taken an engine over answers what they like
        raise SilentEngineError(f"what it says is no {kind.__name__}") from None
