"""The operator's port: liveness, readiness, metrics, who is locked out, and a new configuration.

Probes are open, since who runs containers has no key. All else asks for one, where it was given one to ask
for.
"""

from collections.abc import Callable, Iterable

import msgspec
import structlog
from aiohttp import web

from hubgate.proxy.auth.old_tokens import OldTokenGauge
from hubgate.proxy.blocks.messages import MAX_BODY
from hubgate.proxy.metrics.registry import Metrics
from hubgate.runtime.operator_key import Refusal
from hubgate.runtime.reload import OwnGrants, Reloaded
from hubgate.wire.control_api import GRANT_HEADER
from hubgate.wire.endpoints import RELOAD_PROXY
from hubgate.wire.keyfile import KeyFile
from hubgate.wire.keys import ProxyKeys
from hubgate.wire.seal import SealError

log = structlog.get_logger("admin")

_TEXT = "text/plain; version=0.0.4; charset=utf-8"  # Prometheus' exposition format


def app(
    metrics: Metrics,
    old_tokens: OldTokenGauge,
    unready: Callable[[], str | None],
    commands: Iterable[Iterable[web.RouteDef]],
    unreadable: Callable[[web.Request], Refusal | None],
) -> web.Application:
    """Routes of the admin port; `unready` says why the proxy should get no traffic, if so.

    `unreadable` says why who asks may not read /metrics.
    """

    async def livez(_: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def readyz(_: web.Request) -> web.Response:
        reason = unready()
        return web.Response(text=f"{reason or 'ready'}\n", status=503 if reason else 200)

    async def expose(request: web.Request) -> web.Response:
        if refusal := unreadable(request):
            return web.Response(text=f"{refusal.message}\n", status=refusal.status, headers=refusal.headers)
        metrics.tokens_over_age.set(old_tokens.count())
        return web.Response(body=metrics.expose(), headers={"Content-Type": _TEXT})

    admin = web.Application(client_max_size=MAX_BODY)
    admin.router.add_get("/livez", livez)
    admin.router.add_get("/readyz", readyz)
    admin.router.add_get("/metrics", expose)
    for routes in commands:
        admin.router.add_routes(routes)
    return admin


class Reload:
    """`POST /reload`, for who can read this proxy's own key file."""

    def __init__(
        self, keys: KeyFile[ProxyKeys], reload: Callable[[], Reloaded], now: Callable[[], float]
    ) -> None:
        self._keys = keys
        self._reload = reload
        self._now = now
        self._grants = OwnGrants(now())

    def routes(self) -> list[web.RouteDef]:
        """For the admin port's application."""
        return [web.post(RELOAD_PROXY, self._answer)]

    async def _answer(self, request: web.Request) -> web.Response:
        try:
            values = request.headers.getall(GRANT_HEADER, [])
            self._grants.believe(values, self._keys.current().signing, self._now())
        except SealError as error:
            log.warning("reload refused", reason=error.reason, peer=request.remote)
            return web.Response(text="not signed with this proxy's own key\n", status=401)
        log.info("reload asked for", peer=request.remote)
        body = msgspec.json.encode(self._reload())
        return web.Response(body=body, content_type="application/json", headers={"Cache-Control": "no-store"})
