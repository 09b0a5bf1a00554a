"""The operator's port: liveness, readiness, metrics, and who is locked out.

Probes are open, since who runs containers has no key. All else asks for one, where it was given one to ask
for.
"""

from collections.abc import Callable

from aiohttp import web

from hubgate.proxy.auth.old_tokens import OldTokenGauge
from hubgate.proxy.blocks.api import BlocksApi
from hubgate.proxy.blocks.messages import MAX_BODY
from hubgate.proxy.metrics.registry import Metrics
from hubgate.runtime.operator_key import Refusal

_TEXT = "text/plain; version=0.0.4; charset=utf-8"  # Prometheus' exposition format


def app(
    metrics: Metrics,
    old_tokens: OldTokenGauge,
    unready: Callable[[], str | None],
    blocks: BlocksApi,
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
    admin.router.add_routes(blocks.routes())
    return admin
