"""A backend's control API without the GPU: real seals and signatures, scripted loads.

async with FakeBackend.start(ring) as backend:
    backend.host(engine, base="demo/tiny-llama@<sha>")        # warm, as the next hello tells
    backend.then(says(Progress(…), LoadFailed(…)))                # for the next ensure
    ...
    assert backend.asked[-1].base == "demo/tiny-llama@<sha>"  # the scoped token, opened
"""

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import time

import msgspec
from aiohttp import web

from hubgate.wire.control_api import (
    GRANT_HEADER,
    PROTOCOL,
    EngineInfo,
    EngineQueue,
    EngineState,
    EnsureRequest,
    Event,
    Evicted,
    Hello,
    Ready,
)
from hubgate.wire.seal import ReplayGuard, ScopedToken, SealError, open_token, sign_hello, verify_grant
from tests.fakes.engine import LOCAL, PATIENCE, RawEngine
from tests.fakes.keyring import Keyring

Load = Callable[[ScopedToken, web.StreamResponse], Awaitable[None]]


@dataclass(slots=True)
class Hosted:
    """What the backend says of one engine; change it as you like."""

    engine: RawEngine
    id: str
    base: str
    boot: str = "engine-boot-1"
    state: EngineState = "ready"
    adapters: set[str] = field(default_factory=set)
    claims: tuple[str, ...] = ()
    places: int = 0
    tells_places: bool = False
    queue: EngineQueue | None = None

    def told(self) -> EngineInfo:
        """Its entry in a hello."""
        return EngineInfo(
            id=self.id,
            boot=self.boot,
            port=self.engine.port,
            base=self.base,
            state=self.state,
            adapters=tuple(sorted(self.adapters)),
            claims=self.claims,
            places=self.places,
            tells_places=self.tells_places,
            queue=self.queue,
        )


class FakeBackend:
    """Answers `GET /v1/hello` and `POST /v1/ensure`, and refuses both without a control grant."""

    def __init__(self, ring: Keyring, name: str, tls: ssl.SSLContext | None = None) -> None:
        self.tls = tls
        self.ring = ring
        self.name = name
        self.boot = "boot-1"
        self.hosted: list[Hosted] = []
        self.evicts: tuple[Evicted, ...] = ()
        self.draining = False
        self.hellos = 0
        self.asked: list[ScopedToken] = []
        self.request_ids: list[str | None] = []
        self.refused: list[str] = []
        self.tell: Callable[[Hello], bytes] = self._signed
        self.port = 0
        self._then: deque[Load] = deque()
        self._always: Load = self.make_warm
        self._replays = ReplayGuard(1000, time)
        self._moved = asyncio.Event()
        self._runner: web.AppRunner | None = None

    @classmethod
    @asynccontextmanager
    async def start(
        cls, ring: Keyring, name: str = "gpu-0", tls: ssl.SSLContext | None = None
    ) -> AsyncIterator["FakeBackend"]:
        """Listen until the context ends."""
        backend = cls(ring, name, tls)
        await backend.up()
        try:
            yield backend
        finally:
            await backend.down()

    @property
    def url(self) -> str:
        return f"{'http' if self.tls is None else 'https'}://{LOCAL}:{self.port}"

    async def up(self) -> None:
        """Listen; on the same port again after `down`."""
        app = web.Application()
        app.router.add_get("/v1/hello", self._hello)
        app.router.add_post("/v1/ensure", self._ensure)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, LOCAL, self.port, ssl_context=self.tls).start()
        self.port = self._runner.addresses[0][1]

    async def down(self) -> None:
        """Close every connection and the port."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def host(self, engine: RawEngine, base: str, *adapters: str, id: str = "engine-1") -> Hosted:  # noqa: A002
        """Say from now on that this engine runs this base and holds these adapters."""
        hosted = Hosted(engine, id, base, adapters=set(adapters))
        self.hosted.append(hosted)
        return hosted

    def then(self, *loads: Load) -> None:
        """Answer the next ensures so, in this order."""
        self._then.extend(loads)

    def always(self, load: Load) -> None:
        """Answer so whatever `then` does not say; at first `make_warm`."""
        self._always = load

    async def greeted(self, more: int = 1) -> None:
        """Wait until so many more hellos were answered: by then the proxy knows what was changed before."""
        wanted = self.hellos + more
        await self.until(lambda: self.hellos >= wanted)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a call makes this true."""
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._moved.clear()
                await self._moved.wait()

    async def make_warm(self, token: ScopedToken, response: web.StreamResponse) -> None:
        """Put the adapter, if any, into the engine that runs the base, or the base into the first one."""
        running = [hosted for hosted in self.hosted if hosted.base == token.base]
        chosen = running[0] if running else self.hosted[0]
        if not running:
            chosen.base, chosen.adapters = token.base, set()
        chosen.state = "ready"
        if token.adapter is not None:
            chosen.adapters.add(token.adapter)
        await say(
            response,
            Ready(
                engine=chosen.told(),
                loaded=token.adapter is not None,
                evicted=self.evicts,
                started=bool(self.evicts),
            ),
        )

    def _signed(self, hello: Hello) -> bytes:
        return sign_hello(msgspec.json.encode(hello), self.ring.backend.signing).encode()

    async def _hello(self, request: web.Request) -> web.Response:
        try:
            nonce = self._control(request, boot="")
        except SealError as error:
            return self._refuse(error)
        self.hellos += 1
        self._moved.set()
        engines = tuple(hosted.told() for hosted in self.hosted)
        hello = Hello(
            protocol=PROTOCOL,
            name=self.name,
            boot=self.boot,
            nonce=nonce,
            engines=engines,
            draining=self.draining,
        )
        return web.Response(body=self.tell(hello))

    async def _ensure(self, request: web.Request) -> web.StreamResponse:
        try:
            self._control(request, boot=self.boot)
            token = self._open(msgspec.json.decode(await request.read(), type=EnsureRequest).token)
        except SealError as error:
            return self._refuse(error)
        self.asked.append(token)
        self.request_ids.append(request.headers.get("X-Request-Id"))
        self._moved.set()
        load = self._then.popleft() if self._then else self._always
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        await load(token, response)
        return response

    def _control(self, request: web.Request, boot: str) -> str:
        """Check the grant of a call; gives its jti."""
        value = request.headers.get(GRANT_HEADER, "")
        try:
            grant = verify_grant(value, self.ring.proxies, aud=self.name, boot=boot, now=time())
        except SealError as error:
            if boot or error.reason != "wrong_audience":
                raise
            grant = verify_grant(value, self.ring.proxies, aud="", boot="", now=time())
        if grant.kind != "control":
            raise SealError("wrong_kind")
        return grant.jti

    def _open(self, sealed: str) -> ScopedToken:
        opening, proxies = self.ring.backend.opening, self.ring.proxies
        token = open_token(sealed, opening, proxies, aud=self.name, boot=self.boot, now=time())
        self._replays.use(token.jti, token.exp)
        return token

    def _refuse(self, error: SealError) -> web.Response:
        self.refused.append(error.reason)
        self._moved.set()
        return web.Response(status=401)


async def say(response: web.StreamResponse, event: Event) -> None:
    """Write one event of a load."""
    await response.write(msgspec.json.encode(event) + b"\n")


def says(*events: Event) -> Load:
    """A load that tells these events and ends."""

    async def load(_: ScopedToken, response: web.StreamResponse) -> None:
        for event in events:
            await say(response, event)

    return load


def babbles(*pieces: bytes) -> Load:
    """A load that writes exactly these bytes and ends."""

    async def load(_: ScopedToken, response: web.StreamResponse) -> None:
        for piece in pieces:
            await response.write(piece)

    return load


class Held:
    """A load that waits for `release` before it goes on as another; `cancelled` if the proxy left first."""

    def __init__(self, then: Load) -> None:
        self._then = then
        self._go = asyncio.Event()
        self.waiting = asyncio.Event()
        self.cancelled = asyncio.Event()

    def release(self) -> None:
        self._go.set()

    async def __call__(self, token: ScopedToken, response: web.StreamResponse) -> None:
        self.waiting.set()
        try:
            await self._go.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        await self._then(token, response)
