"""The backends, what each is known to run, and the choice of one for a request."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from urllib.parse import urlsplit

import structlog

from hubgate.proxy.auth.authorization import Access
from hubgate.proxy.auth.identity import Caller
from hubgate.proxy.errors import Code, Denied
from hubgate.proxy.metrics.registry import Metrics
from hubgate.proxy.upstream import affinity
from hubgate.proxy.upstream.control_client import ControlClient, ControlError
from hubgate.wire.control_api import EngineInfo, Event, FailureCode, LoadFailed

POLL_SECONDS = 1.0

log = structlog.get_logger("upstream")

_CODES: dict[FailureCode, Code] = {
    "denied": "access_denied",
    "not_found": "model_not_found",
    "rejected": "adapter_rejected",
    "hub_unavailable": "hub_unavailable",
    "store_full": "store_full",
    "no_capacity": "no_upstream",
    "engine_failed": "no_upstream",
    "error": "upstream_error",
}


class Upstream:
    """One backend as this proxy sees it: its last hello, and what was found since."""

    def __init__(self, name: str, url: str, control: ControlClient) -> None:
        self.name = name
        parts = urlsplit(url)
        self.host = parts.hostname or ""
        self._certified = name if parts.scheme == "https" else ""  # what its engines' certificate is for
        self._control = control
        self._boot: str | None = None
        self._engines: dict[str, EngineInfo] = {}
        self._asked: asyncio.Task[None] | None = None  # a hello that is under way
        self._next: asyncio.Task[None] | None = None  # the one that begins when that has ended

    @property
    def up(self) -> bool:
        """Whether the backend answered its last hello."""
        return self._boot is not None

    def engine(self, access: Access) -> EngineInfo | None:
        """The engine that is known to hold the model, or `None` if it is cold here."""
        for engine in self._engines.values():
            holds = access.adapter is None or str(access.adapter) in engine.adapters
            if holds and engine.base == str(access.base) and engine.state == "ready":
                return engine
        return None

    def holds(self, model: str) -> bool:
        """The same by the name that the model is served under."""
        for engine in self._engines.values():
            if engine.state == "ready" and (engine.base == model or model in engine.adapters):
                return True
        return False

    def warmth(self, access: Access) -> int:
        """2: holds the model; 1: runs its base; 0: neither."""
        if self.engine(access) is not None:
            return 2
        return int(any(engine.base == str(access.base) for engine in self._engines.values()))

    def running(self, base_id: str) -> str | None:
        """The sha at which a base is running here, or would be in a moment."""
        for engine in self._engines.values():
            repo, _, sha = engine.base.partition("@")
            if repo == base_id and engine.state in ("starting", "ready", "asleep"):
                return sha
        return None

    def address(self, engine: EngineInfo) -> tuple[str, int, str]:
        """Where the engine listens: host and TLS are ours to know, only the port is the backend's word."""
        return self.host, engine.port, self._certified

    def lost(self, engine: EngineInfo) -> None:
        """Forget an engine that turned out not to be what we knew; the next hello may tell of it anew."""
        self._engines.pop(engine.id, None)

    async def refresh(self) -> None:
        """Ask for a hello and believe it. Raises `ControlError`; the backend then counts as down.

        Who comes while one is under way waits for the next one, together with all who came: it tells of what
        is then, and a hundred loads cost two hellos.
        """
        mine = self._next  # which has not begun
        if mine is None:
            asked = self._asked
            if asked is None or asked.done():
                mine = self._asked = asyncio.ensure_future(self._hello())
            else:
                mine = self._next = asyncio.ensure_future(self._after(asked))
            mine.add_done_callback(_retrieve)
        await asyncio.shield(mine)

    async def _after(self, asked: "asyncio.Task[None]") -> None:
        await asyncio.wait([asked])
        self._asked, self._next = self._next, None
        await self._hello()

    async def _hello(self) -> None:
        try:
            hello = await self._control.hello()
        except Exception:  # of whatever kind
            self._boot = None
            self._engines.clear()
            raise
        self._boot = hello.boot
        self._engines = {engine.id: engine for engine in hello.engines}

    def ensure(self, access: Access, caller: Caller, request_id: str) -> AsyncGenerator[Event]:
        """Make the model warm, with the caller's own token; see `Control.ensure`.

        The token is sealed for one boot, and a backend may just have restarted: `refresh` first.
        """
        return self._control.ensure(access, caller, self._boot or "", request_id)

    def found(self, engine: EngineInfo) -> None:
        """Remember an engine that `ensure` ended with."""
        self._engines[engine.id] = engine


class Pool:
    """All backends of this proxy."""

    def __init__(self, upstreams: Sequence[Upstream], metrics: Metrics) -> None:
        self._upstreams = tuple(upstreams)
        self._metrics = metrics

    def lease(self, access: Access) -> Upstream | Denied:
        """The backend for a request: one that is up, preferably warm."""
        found = affinity.choose(
            [upstream for upstream in self._upstreams if upstream.up],
            access.model,
            name=lambda upstream: upstream.name,
            warmth=lambda upstream: upstream.warmth(access),
        )
        return found or Denied("no_upstream", "No backend is in reach right now.", retry_after=5)

    def running(self, base_id: str) -> str | None:
        """The sha at which some backend runs this base."""
        for upstream in self._upstreams:
            if sha := upstream.running(base_id):
                return sha
        return None

    def is_warm(self, model: str) -> bool:
        """Whether some backend holds the model of that name, `org/name@sha`."""
        return any(upstream.holds(model) for upstream in self._upstreams)

    @property
    def ready(self) -> bool:
        """Whether at least one backend is up."""
        return any(upstream.up for upstream in self._upstreams)

    async def poll(self) -> None:
        """Keep knowledge of every backend fresh, for ever."""
        async with asyncio.TaskGroup() as group:
            for upstream in self._upstreams:
                group.create_task(self._poll(upstream))

    async def _poll(self, upstream: Upstream) -> None:
        known: str | None = "never asked"
        while True:
            try:
                await upstream.refresh()
                problem = None
            except ControlError as error:
                problem = error.reason
            except Exception as error:
                # Our fault; but whatever one backend answers, the others are polled, and the proxy goes on.
                problem = type(error).__name__
                if problem != known:
                    log.exception("hello failed", upstream=upstream.name)
            self._metrics.upstream_up.labels(upstream.name).set(upstream.up)
            if problem != known:
                log.info("upstream", upstream=upstream.name, up=upstream.up, problem=problem)
                known = problem
            await asyncio.sleep(POLL_SECONDS)


def _retrieve(hello: "asyncio.Task[None]") -> None:
    # Everybody who waited for it may have left.
    if not hello.cancelled():
        hello.exception()


def refusal(failed: LoadFailed, model: str) -> Denied:
    """What a failed load means to the caller who waited for it."""
    code = _CODES[failed.code]
    if code == "model_not_found":
        return Denied(code, f"The model {model} does not exist, or your token cannot read it.", "model")
    return Denied(code, failed.message, "model", retry_after=failed.retry_after)


def unreachable() -> Denied:
    """The backend went away, or is not what it says it is."""
    return Denied("no_upstream", "The backend does not answer.", retry_after=5)
