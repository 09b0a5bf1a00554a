"""The backends, what each is known to run, and the choice of one for a request."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import cast
from urllib.parse import urlsplit

import msgspec
import structlog

from hubgate.proxy.auth.authorization import Access
from hubgate.proxy.auth.identity import Caller
from hubgate.proxy.errors import Code, Denied
from hubgate.proxy.metrics.registry import Metrics
from hubgate.proxy.upstream.balancer import Balancer, Lease, Member
from hubgate.proxy.upstream.control_client import ControlClient, ControlError
from hubgate.wire.bounded_map import BoundedMap
from hubgate.wire.control_api import EngineInfo, Event, FailureCode, Hello, LoadFailed

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


class Upstream(Member):
    """One backend as this proxy sees it: its last hello, and what was found since."""

    def __init__(
        self, name: str, url: str, control: ControlClient, weight: int = 100, *, named_by_hello: bool = False
    ) -> None:
        """With `named_by_hello`, `name` is good only until a hello tells another."""
        super().__init__(name, weight)
        self.named_by_hello = named_by_hello
        self.on_named: Callable[[Upstream], bool] | None = None  # it took a name; whether it may have it
        parts = urlsplit(url)
        self.host = parts.hostname or ""
        self._certified = name if parts.scheme == "https" else ""  # what its engines' certificate is for
        self.on_change: Callable[[Upstream], None] | None = None  # something else is there than before
        self.on_queues: Callable[[Upstream], None] | None = None  # only queues are
        self._control = control
        self._boot: str | None = None
        self._asked: asyncio.Task[None] | None = None  # a hello that is under way
        self._next: asyncio.Task[None] | None = None  # the one that begins when that has ended

    @property
    def up(self) -> bool:
        """Whether the backend answered its last hello."""
        return self._boot is not None

    def holds(self, model: str) -> bool:
        """The same by the name that the model is served under."""
        for engine in self.engines.values():
            if engine.state == "ready" and (engine.base == model or model in engine.adapters):
                return True
        return False

    def running(self, base_id: str) -> str | None:
        """The sha at which a base is running here, or would be in a moment."""
        for engine in self.engines.values():
            repo, _, sha = engine.base.partition("@")
            if repo == base_id and engine.state in ("starting", "ready", "asleep"):
                return sha
        return None

    def address(self, engine: EngineInfo) -> tuple[str, int, str]:
        """Where the engine listens: host and TLS are ours to know, only the port is the backend's word."""
        return self.host, engine.port, self._certified

    def lost(self, engine: EngineInfo) -> None:
        """Forget an engine that turned out not to be what we knew; the next hello may tell of it anew."""
        if self.engines.pop(engine.id, None) is not None:
            self._changed()

    def unloaded(self, engine: EngineInfo, model: str) -> None:
        """Forget that it holds this adapter, and nothing else: the others are as warm as before."""
        known = self.engines.get(engine.id)
        if known is None or model not in known.adapters:
            self.lost(engine)
            return
        left = tuple(name for name in known.adapters if name != model)
        self.engines[engine.id] = msgspec.structs.replace(known, adapters=left)
        self._changed()

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
            if self.open or self.engines:
                self.open = False
                self.engines.clear()
                self._changed()
            raise
        self._boot = hello.boot
        self._take(hello)

    def _take(self, hello: Hello) -> None:
        engines = {engine.id: engine for engine in hello.engines}
        known, self.engines = self.engines, engines
        may = True
        if self.named_by_hello and self.on_named is not None:
            self.name = hello.name
            may = self.on_named(self)
        opened = may and not hello.draining
        if self.open is not opened or known.keys() != engines.keys():
            moved = True
        else:
            moved = any(_differs(known[engine.id], engine) for engine in hello.engines)
        self.open = opened
        if moved:
            self._changed()
        elif self.on_queues is not None:
            self.on_queues(self)

    def _changed(self) -> None:
        if self.on_change is not None:
            self.on_change(self)

    def ensure(self, access: Access, caller: Caller, request_id: str) -> AsyncGenerator[Event]:
        """Make the model warm, with the caller's own token; see `Control.ensure`.

        The token is sealed for one boot, and a backend may just have restarted: `refresh` first.
        """
        return self._control.ensure(access, caller, self._boot or "", request_id)

    def found(self, engine: EngineInfo) -> None:
        """Remember an engine that `ensure` ended with."""
        self.engines[engine.id] = engine
        self._changed()


def _differs(one: EngineInfo, other: EngineInfo) -> bool:
    """But for what changes with every request."""
    return (one.base, one.state, one.adapters, one.boot, one.port, one.places, one.claims) != (
        (other.base, other.state, other.adapters, other.boot, other.port, other.places, other.claims)
    )


class Pool:
    """All backends of this proxy."""

    def __init__(
        self,
        upstreams: Sequence[Upstream],
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._upstreams: tuple[Upstream, ...] = ()
        self._metrics = metrics
        self._clock = clock
        self._balancer = Balancer(clock)
        self._polls: dict[Upstream, asyncio.Task[None]] = {}
        self._polling = asyncio.Event()
        self._names: dict[Upstream, str] = {}  # that hellos told
        self._alarmed: BoundedMap[str, None] = BoundedMap(1000)  # hosts
        self.replace(upstreams)

    def replace(self, upstreams: Sequence[Upstream]) -> None:
        """Lease these from now on; requests that have others keep them."""
        for upstream in self._upstreams:
            upstream.on_change = upstream.on_queues = upstream.on_named = None
        self._upstreams = tuple(upstreams)
        for upstream in self._upstreams:
            upstream.on_change = self._moved
            upstream.on_queues = self._balancer.told
            upstream.on_named = self._named
        self._names = {one: name for one, name in self._names.items() if one in self._upstreams}
        self._balancer.replace(self._upstreams)
        self._polling.set()

    def _named(self, upstream: Upstream) -> bool:
        """Two with one name are one too many: the first is believed for as long as it answers."""
        for other in self._upstreams:
            accepted = not other.named_by_hello or self._names.get(other) == other.name
            if other is not upstream and other.name == upstream.name and other.up and accepted:
                self._names.pop(upstream, None)
                self._metrics.upstream_name_conflicts.inc()
                if upstream.host not in self._alarmed:
                    self._alarmed.put(upstream.host, None)
                    log.error(
                        "two backends have one name",
                        upstream=upstream.name,
                        used=other.host,
                        refused=upstream.host,
                    )
                return False
        if self._names.get(upstream) != upstream.name:
            self._names[upstream] = upstream.name
            self._balancer.replace(self._upstreams)  # its place in every order is another
        return True

    def _moved(self, _: Upstream) -> None:
        self._balancer.changed()

    def lease(self, access: Access, avoided: Upstream | None = None) -> Lease | Denied:
        """A place at one backend, which is given back by `Lease.end`: see `balancer` for which one.

        Elsewhere than at `avoided`, where that can be.
        """
        found = self._balancer.lease(access, avoided)
        return found or Denied("no_upstream", "No backend is in reach right now.", retry_after=5)

    def upstream(self, lease: Lease) -> Upstream:
        """Where the place is."""
        return cast("Upstream", lease.member)

    def failed(self, lease: Lease) -> None:
        """Its engine was not there, or ended before it answered."""
        if lease.failed(self._clock()):
            self._metrics.upstream_pauses.labels(lease.member.name).inc()
            log.warning("upstream paused", upstream=lease.member.name, why="its engine fails")

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
            while True:
                self._polling.clear()
                for upstream in tuple(self._polls):
                    if upstream not in self._upstreams:
                        self._polls.pop(upstream).cancel()
                        self._metrics.forget_upstream(upstream.name)
                for upstream in self._upstreams:
                    if upstream not in self._polls:
                        self._polls[upstream] = group.create_task(self._poll(upstream))
                await self._polling.wait()

    async def _poll(self, upstream: Upstream) -> None:
        known: str | None = "never asked"
        label = upstream.name
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
            if label != upstream.name:
                self._metrics.forget_upstream(label)
                label = upstream.name
            self._metrics.upstream_up.labels(label).set(upstream.up)
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
