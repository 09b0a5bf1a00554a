"""What is open on the control port: liveness, readiness and metrics. No names of adapters or users."""

import asyncio

import structlog
from aiohttp import web

from hubgate.backend.engines.client import EngineError
from hubgate.backend.engines.engine import Engine
from hubgate.backend.engines.supervisor import Supervisor
from hubgate.backend.metrics import Metrics
from hubgate.runtime.operator_key import KeyGuard
from hubgate.wire.keyfile import KeyFile
from hubgate.wire.secret import Secret

log = structlog.get_logger()


class Probes:
    """For Kubernetes, Docker and Prometheus."""

    def __init__(
        self, supervisor: Supervisor, metrics: Metrics, key: KeyFile[Secret] | None, guard: KeyGuard
    ) -> None:
        """With a `key`, /metrics asks for it."""
        self._supervisor = supervisor
        self._metrics = metrics
        self._key = key
        self._guard = guard

    @property
    def ready(self) -> bool:
        """Whether all preloaded models answer."""
        return self._supervisor.is_ready()

    async def livez(self, _: web.Request) -> web.Response:
        """The event loop answers."""
        return web.json_response({"status": "alive"})

    async def readyz(self, _: web.Request) -> web.Response:
        """Whether all preloaded models answer."""
        if self.ready:
            return web.json_response({"status": "ready"})
        return web.json_response({"status": "starting"}, status=503)

    async def metrics(self, request: web.Request) -> web.Response:
        """Ours, and those of the engines, which answer nobody else without a grant."""
        refusal = None if self._key is None else self._guard.refusal(request, [self._key])
        if refusal is not None:
            return web.Response(text=f"{refusal.message}\n", status=refusal.status, headers=refusal.headers)
        engines = [engine for engine in self._supervisor.engines() if engine.state in ("ready", "draining")]
        texts = await asyncio.gather(*(self._of(engine) for engine in engines))
        body = self._metrics.render(
            {engine.id: text for engine, text in zip(engines, texts, strict=True)},
            {engine.id: engine.base.id for engine in engines if self._supervisor.is_configured(engine.base)},
        )
        return web.Response(body=body, content_type="text/plain", charset="utf-8")

    async def _of(self, engine: Engine) -> str:
        try:
            return await engine.client.metrics()
        except EngineError as error:
            log.warning("metrics.engine_failed", engine=engine.id, error=str(error))
            return ""
