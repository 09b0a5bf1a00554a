"""The composition root: builds every part of the proxy from its settings, and runs them."""

import asyncio
import resource
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiohttp
import structlog
from aiohttp import web

from hubgate.proxy import admin
from hubgate.proxy.audit.chain import AuditFileError
from hubgate.proxy.audit.long_requests import LongRequests
from hubgate.proxy.audit.refusal_report import RefusalReport
from hubgate.proxy.audit.writer import AuditWriter
from hubgate.proxy.auth import name_book
from hubgate.proxy.auth.accounts import UNRECORDED, Accounts, SharedNames
from hubgate.proxy.auth.authorization import AccessKey, Authorizer
from hubgate.proxy.auth.identity import Identities
from hubgate.proxy.auth.name_book import NameBook, NameBookError
from hubgate.proxy.auth.old_tokens import OldTokenGauge
from hubgate.proxy.auth.policy import CallerPolicy, ModelPolicy
from hubgate.proxy.auth.revisions import Revisions
from hubgate.proxy.auth.unknown_tokens import UnknownTokenLimiter
from hubgate.proxy.backend_list import BackendList, Controls
from hubgate.proxy.blocks.api import BlocksApi
from hubgate.proxy.blocks.block_file import BlockFile, BlockFileError
from hubgate.proxy.blocks.lock_outs import LockOuts
from hubgate.proxy.blocks.shared import SharedBlocks
from hubgate.proxy.body.reader import BodyReader
from hubgate.proxy.drain import Drain
from hubgate.proxy.errors import Denied
from hubgate.proxy.gateway import Gateway
from hubgate.proxy.http.client_address import ClientAddresses
from hubgate.proxy.http.connection_limit import RESERVE, ConnectionLimit, most_connections
from hubgate.proxy.http.cors import Cors
from hubgate.proxy.http.server import Server
from hubgate.proxy.http.tls import Certificate
from hubgate.proxy.hub import fair_turns
from hubgate.proxy.hub.cache import Cache
from hubgate.proxy.hub.client import HubClient
from hubgate.proxy.hub.errors import HubErrors
from hubgate.proxy.hub.histories import Histories
from hubgate.proxy.hub.schemas import Allowed, Moved
from hubgate.proxy.hub.transport import HubTransport
from hubgate.proxy.limits.limiter import Limiter
from hubgate.proxy.limits.loads import Loads
from hubgate.proxy.limits.memory_counters import Counters, MemoryCounters
from hubgate.proxy.limits.refusals import Refusals
from hubgate.proxy.limits.shared_address import SharedAddress
from hubgate.proxy.metrics.registry import Metrics
from hubgate.proxy.model_listing import ModelListing
from hubgate.proxy.preflight import Checked
from hubgate.proxy.reload import Reloader
from hubgate.proxy.settings import MEMORY, ProxySettings
from hubgate.proxy.settings import Admin as AdminSettings
from hubgate.proxy.upstream.cold_start import ColdLoader
from hubgate.proxy.upstream.connection_pool import KEEPALIVE, ConnectionPool
from hubgate.proxy.upstream.control_client import GateClient
from hubgate.proxy.upstream.gate_line import GateLine
from hubgate.proxy.upstream.grant_signer import GrantSigner
from hubgate.proxy.upstream.relay import Relay
from hubgate.proxy.upstream.upstream_pool import Pool
from hubgate.runtime.config import ConfigError
from hubgate.runtime.hub_route import Route
from hubgate.runtime.operator_key import KeyGuard, Refusal, is_loopback
from hubgate.runtime.tls import TlsFiles
from hubgate.runtime.watch import watch
from hubgate.wire.keys import ProxyKeys
from hubgate.wire.secret import Secret

log = structlog.get_logger("proxy")

CALLERS_CACHED = 100_000
WALKED = 0.25  # the share of the life of a verdict on a commit for which the walk that it rests on is good


@dataclass(frozen=True, slots=True)
class Clocks:
    """What tells the time to everything whose decisions depend on it."""

    now: Callable[[], float] = time.time  # seconds since the epoch
    monotonic: Callable[[], float] = time.monotonic


CLOCKS = Clocks()


@asynccontextmanager
async def running(
    settings: ProxySettings,
    checked: Checked,
    clocks: Clocks = CLOCKS,
    *,
    read: Callable[[], ProxySettings] | None = None,
) -> AsyncIterator["Proxy"]:
    """The whole proxy, listening; leaving lets requests under way end for `timeouts.drain` seconds.

    `read` gives the configuration when the operator has it reloaded; without it, it is what it was.
    """
    async with AsyncExitStack() as stack:
        proxy = await _build(stack, settings, checked, clocks, read or (lambda: settings))
        yield proxy


@dataclass(frozen=True, slots=True)
class Proxy:
    """A running proxy: where it listens, and the task whose end means that something broke."""

    port: int
    admin_port: int
    background: "asyncio.Task[None]"
    reloader: Reloader
    unready: Callable[[], str | None]  # why it should get no traffic, if so


async def _build(
    stack: AsyncExitStack,
    settings: ProxySettings,
    checked: Checked,
    clocks: Clocks,
    read: Callable[[], ProxySettings],
) -> Proxy:
    metrics = Metrics()
    drain = Drain()
    old_tokens = OldTokenGauge(clocks.now)
    audit = _audit(settings, checked.keys.current(), metrics, clocks)
    stack.callback(audit.close)
    accounts = await _accounts(stack, settings, checked.limits_storage, metrics)

    errors = HubErrors(settings.hub.url)
    digest_key = secrets.token_bytes(32)
    session = await _hub_session(stack, settings, checked.hub)
    transport = HubTransport(
        session,
        settings.hub.url,
        metrics,
        clocks.monotonic,
        digest_key,
        now=clocks.now,
        patience=settings.hub.timeout,
    )
    hub = HubClient(transport, errors)
    identities = Identities(
        hub,
        checked.keys.current(),
        checked.local,
        UnknownTokenLimiter(settings.hub.refused_tokens_per_minute, clocks.monotonic),
        errors,
        accounts=accounts,
        cache=_cache(settings, settings.hub.identity_ttl, clocks),
        digest_key=digest_key,
    )
    grants = GrantSigner(checked.keys.current, clocks.now)
    accesses: Cache[AccessKey, Allowed | Moved | Denied] = _cache(settings, settings.hub.access_ttl, clocks)
    callers = CallerPolicy(settings.callers, settings.tokens, errors.advice)
    pool = Pool([], metrics, clocks.monotonic)
    controls = await _controls(stack, settings, checked, grants, clocks)
    backends = BackendList(settings.upstreams, checked, pool, controls)
    gates = GateClient(await _control_session(stack, settings), grants, backends.tls)
    line = GateLine(gates.places, settings.cold_start.heartbeat_after, clocks.monotonic)
    policy = ModelPolicy(settings.models)
    authorizer = Authorizer(
        hub,
        identities,
        _revisions(hub, settings, policy, clocks),
        policy,
        accesses=accesses,
        running=pool.running,
    )
    counters = await _counters(stack, checked.limits_storage, metrics, clocks)
    limits = Limiter(settings.limits, settings.keys, counters)
    long_requests = LongRequests(audit, clocks.now)
    refusals = Refusals(settings.limits.refusals_per_minute, clocks.monotonic)
    throttled = Refusals(settings.limits.refusals_per_minute, clocks.monotonic)
    report = RefusalReport(refusals, throttled, audit)
    stack.callback(report.write)
    clients = ClientAddresses(settings.listen.trusted_proxies)
    gateway = Gateway(
        request_settings=settings.request,
        cold_start=settings.cold_start,
        per_user=settings.metrics.per_user,
        clients=clients,
        cors=Cors(settings.listen.cors) if settings.listen.cors else None,
        identities=identities,
        caller_policy=callers,
        advice=errors.advice,
        old_tokens=old_tokens,
        refusals=refusals,
        throttled=throttled,
        shared_address=None if settings.listen.trusted_proxies else SharedAddress(clocks.monotonic),
        limits=limits,
        loads=Loads(clocks.monotonic, pool.is_warm),
        bodies=BodyReader(settings.request, settings.timeouts.body_idle, settings.timeouts.least_rate),
        authorizer=authorizer,
        listing=ModelListing(authorizer, policy),
        pool=pool,
        cold_loader=ColdLoader(audit, settings.cold_start.heartbeat_after),
        grants=grants,
        relay=Relay(_connections(stack, settings, backends.tls, metrics), line, settings.timeouts, metrics),
        audit=audit,
        long_requests=long_requests,
        metrics=metrics,
        drain=drain,
        now=clocks.now,
    )
    timeouts = settings.timeouts
    server = Server(
        gateway.handle,
        gateway.refuse,
        header_timeout=timeouts.header,
        least_rate=timeouts.least_rate,
        limit=_connection_limit(clients),
        dropped=lambda how: metrics.dropped_connections.labels(how).inc(),
    )
    lock_outs = LockOuts(
        callers.blocklist,
        BlockFile(settings.audit.path),
        await _shared_blocks(stack, checked.limits_storage),
        audit,
        cut=lambda: server.interrupt(gateway.locked_out),
        now=clocks.now,
    )
    await _start(lock_outs)
    stack.push_async_callback(lock_outs.close)
    work = (
        pool.poll,
        backends.discovery.run,
        line.run,
        partial(watch, checked.files),
        long_requests.run,
        lock_outs.run,
        report.run,
    )
    background = await _background(stack, work)
    unready = partial(_unready, pool, audit, drain, lock_outs)
    guard = KeyGuard(clocks.monotonic)
    blocks = BlocksApi(lock_outs, checked.admin_key, guard, frozenset(key.name for key in settings.keys))
    unreadable = _unreadable(settings.admin, checked, guard)

    def forget() -> None:
        identities.forget_all()
        authorizer.forget_all()

    reloader = Reloader(
        settings, accounts, callers, policy, limits, (refusals, throttled), forget, backends.replace
    )
    reload = admin.Reload(checked.keys, partial(reloader.reload, read), clocks.now)
    admin_app = admin.app(metrics, old_tokens, unready, (blocks.routes(), reload.routes()), unreadable)
    admin_port = await _listen_admin(stack, settings, admin_app)
    port = await _listen(stack, settings, server, gateway.drain, checked.certificate)
    return Proxy(port, admin_port, background, reloader, unready)


def _audit(settings: ProxySettings, keys: ProxyKeys, metrics: Metrics, clocks: Clocks) -> AuditWriter:
    try:
        key = keys.derive("audit")
        audit = AuditWriter(
            settings.audit.path, key, metrics, required=settings.audit.required, now=clocks.now
        )
    except AuditFileError as error:
        raise ConfigError([f"audit.path: {error}"]) from None
    except OSError as error:
        raise ConfigError([f"audit.path: {settings.audit.path}: {error.strerror}"]) from None
    audit.start()
    return audit


async def _accounts(
    stack: AsyncExitStack, settings: ProxySettings, storage: Secret, metrics: Metrics
) -> Accounts:
    # The audit beside it is open already, and nobody else's: so is this file.
    path = name_book.beside(settings.audit.path)
    try:
        book = NameBook(path)
    except NameBookError as error:
        raise ConfigError([f"audit.path: {error}"]) from None
    except OSError as error:
        raise ConfigError([f"audit.path: {path}: {error.strerror}"]) from None
    stack.push_async_callback(book.close)
    shared: SharedNames | None = None
    if storage != Secret(MEMORY):
        from hubgate.proxy.auth import redis_names  # noqa: PLC0415 - half a second, for those who use it

        shared = await stack.enter_async_context(redis_names.connected(storage))
    accounts = Accounts(book, shared, metrics.name_conflicts, settings.callers, settings.limits)
    await accounts.start()
    return accounts


async def _counters(stack: AsyncExitStack, storage: Secret, metrics: Metrics, clocks: Clocks) -> Counters:
    if storage == Secret(MEMORY):
        metrics.limits_storage_up.set(1)
        return MemoryCounters(clocks.monotonic)
    from hubgate.proxy.limits import redis_counters  # noqa: PLC0415 - half a second, for those who use it

    redis = redis_counters.connected(storage, metrics.limits_storage_up, clocks.monotonic)
    return await stack.enter_async_context(redis)


async def _shared_blocks(stack: AsyncExitStack, storage: Secret) -> SharedBlocks | None:
    if storage == Secret(MEMORY):
        return None
    from hubgate.proxy.blocks import redis_blocks  # noqa: PLC0415 - as for the counters

    return await stack.enter_async_context(redis_blocks.connected(storage))


async def _start(lock_outs: LockOuts) -> None:
    try:
        await lock_outs.start()
    except BlockFileError as error:
        raise ConfigError([f"audit.path: {error}"]) from None


def _cache(settings: ProxySettings, ttl: float, clocks: Clocks) -> "Cache[Any, Any]":
    """A cache of answers: refusals live shorter, an outage of the Hub is never kept.

    Where it is the account that cannot be recorded, the Hub is there and would be asked by each request:
    that is kept for the seconds after which the caller is to come back.
    """

    def life(value: object) -> float:
        if not isinstance(value, Denied):
            return ttl
        if value is UNRECORDED:
            return min(ttl, UNRECORDED.retry_after or 0)
        kept = value.code not in ("hub_unavailable", "rate_limit_exceeded")
        return min(ttl, settings.hub.denial_ttl) if kept else 0

    return Cache(capacity=CALLERS_CACHED, ttl=life, clock=clocks.monotonic)


def _revisions(hub: HubClient, settings: ProxySettings, policy: ModelPolicy, clocks: Clocks) -> Revisions:
    def life(fact: object) -> float:
        # A refusal came of one caller's token; the fact is everybody's.
        if isinstance(fact, Denied):
            return 0
        ttl = settings.hub.revision_ttl
        return ttl if fact is not False else min(ttl, settings.hub.denial_ttl)  # it may be merged any time

    # A verdict rests on a walk that may have been of before, so that both together stay within that time.
    histories = Histories(
        hub,
        clocks.monotonic,
        life=settings.hub.revision_ttl * WALKED,
        fresh=life(False) * WALKED,  # noqa: FBT003 - the verdict
    )
    return Revisions(
        hub,
        lambda: policy.models.revisions,
        snapshots=Cache(capacity=CALLERS_CACHED, ttl=life, clock=clocks.monotonic),
        lineages=Cache(
            capacity=CALLERS_CACHED, ttl=lambda fact: life(fact) * (1 - WALKED), clock=clocks.monotonic
        ),
        histories=histories,
    )


async def _hub_session(stack: AsyncExitStack, settings: ProxySettings, route: Route) -> aiohttp.ClientSession:
    return await stack.enter_async_context(
        aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,  # it would also take netrc's passwords, and HTTP_PROXY, which would see tokens
            proxy=route.proxy.reveal() if route.proxy is not None else None,
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=settings.hub.timeout),
            connector=aiohttp.TCPConnector(
                limit=fair_turns.AT_ONCE + fair_turns.RESERVE,
                ssl=True if route.context is None else route.context,
            ),
            headers={"User-Agent": "hubgate"},
        )
    )


def _until(tls: TlsFiles) -> float:
    return tls.until


def _connections(
    stack: AsyncExitStack, settings: ProxySettings, upstream_tls: Mapping[str, TlsFiles], metrics: Metrics
) -> ConnectionPool:
    connections = ConnectionPool(settings.timeouts.connect, tls=upstream_tls)
    for name, tls in upstream_tls.items():
        metrics.certificate_expiry.labels(f"upstreams.{name}.tls").set_function(partial(_until, tls))
    stack.callback(connections.close)
    return connections


async def _control_session(stack: AsyncExitStack, settings: ProxySettings) -> aiohttp.ClientSession:
    return await stack.enter_async_context(
        aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=settings.timeouts.connect),
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE),
            headers={"User-Agent": "hubgate"},
        )
    )


async def _controls(
    stack: AsyncExitStack, settings: ProxySettings, checked: Checked, grants: GrantSigner, clocks: Clocks
) -> Controls:
    # Hellos have a session of their own: what tells whether a backend is up waits behind nothing else.
    session, hellos = [await _control_session(stack, settings) for _ in range(2)]
    return Controls(session, hellos, checked.keys.current, grants, clocks.now)


async def _background(
    stack: AsyncExitStack, work: Sequence[Callable[[], Coroutine[Any, Any, None]]]
) -> "asyncio.Task[None]":
    """What goes on for as long as the proxy does."""

    async def all_of_it() -> None:
        await asyncio.gather(*[begin() for begin in work])

    task = asyncio.create_task(all_of_it(), name="background")

    async def stop() -> None:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    stack.push_async_callback(stop)
    return task


def _unready(pool: Pool, audit: AuditWriter, drain: Drain, lock_outs: LockOuts) -> str | None:
    if drain.begun:
        return "draining"
    if lock_outs.unread:
        return "who is locked out is not known yet: Redis is away"
    if not pool.ready:
        return "no upstream is up"
    return None if audit.admits() else "the audit trail cannot be written"


async def _listen(
    stack: AsyncExitStack,
    settings: ProxySettings,
    server: Server,
    drain: Drain,
    certificate: Certificate | None,
) -> int:
    listen = settings.listen
    tls = None if certificate is None else certificate.context
    try:
        port = await server.listen(listen.host, listen.port, tls)
    except OSError as error:
        raise ConfigError([f"listen.port: {error.strerror or error}"]) from None

    async def finish() -> None:
        drain.begin()
        server.stop()
        if not await drain.wait(settings.timeouts.drain):
            log.warning("requests were cut at the end of the drain", seconds=settings.timeouts.drain)
        await server.close()

    stack.push_async_callback(finish)
    return port


def _unreadable(
    admin: AdminSettings, checked: Checked, guard: KeyGuard
) -> Callable[[web.Request], Refusal | None]:
    """Whether /metrics is for who asks: of one of the keys. On loopback only where one was made for it."""
    here = is_loopback(admin.host)
    if here and checked.metrics_key is None:
        return lambda _: None
    readers = [key for key in (checked.admin_key, checked.metrics_key) if key is not None]
    if not readers:
        # Not refused: in a container the port has to be on all interfaces, and a network policy may guard it.
        hint = "set admin.key_file or admin.metrics_key_file, or have nobody but Prometheus reach it"
        log.warning("/metrics is open to all who reach the admin port", host=admin.host, hint=hint)
    return lambda request: guard.refusal(request, readers) if readers else None


def _connection_limit(clients: ClientAddresses) -> ConnectionLimit:
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = ConnectionLimit(most_connections(descriptors), clients.trusts)
    log.info(
        "connections",
        most=limit.most,
        most_of_one_client=limit.share,
        descriptors=descriptors,
        reserve=RESERVE,
    )
    return limit


async def _listen_admin(stack: AsyncExitStack, settings: ProxySettings, app: web.Application) -> int:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    site = web.TCPSite(runner, settings.admin.host, settings.admin.port)
    try:
        await site.start()
    except OSError as error:
        raise ConfigError([f"admin.port: {error.strerror or error}"]) from None
    port: int = runner.addresses[0][1]
    return port
