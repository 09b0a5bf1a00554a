"""The control API: proxies ask who we are, and for models to be made warm. Default deny."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass

import msgspec
import structlog
from aiohttp import web

from hubgate.backend.api.auth import ControlAuth
from hubgate.backend.engines.supervisor import Supervisor
from hubgate.backend.loading.model_loader import ModelLoader
from hubgate.backend.loading.preloader import Preloader
from hubgate.runtime.reload import Reloaded
from hubgate.wire.control_api import (
    GRANT_HEADER,
    PROTOCOL,
    EnsureRequest,
    Event,
    Hello,
    RefreshEvent,
    RefreshRequest,
)
from hubgate.wire.endpoints import ENSURE, HELLO, REFRESH, RELOAD
from hubgate.wire.keyfile import KeyFile
from hubgate.wire.keys import BackendKeys
from hubgate.wire.repo import InvalidRepoError, RepoRef
from hubgate.wire.seal import Grant, SealError, sign_hello

MAX_BODY = 64 * 1024  # bytes
OWN = (REFRESH, RELOAD)  # for the operator of this machine

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class BackendIdentity:
    """Who this backend is, for one boot of it, and the key that proves it."""

    name: str
    boot: str
    keys: KeyFile[BackendKeys]


class ControlApi:
    """`GET /v1/hello`, `POST /v1/ensure`, `/v1/refresh` and `/v1/reload`: see `hubgate.wire.control_api`."""

    def __init__(
        self,
        identity: BackendIdentity,
        auth: ControlAuth,
        supervisor: Supervisor,
        loader: ModelLoader,
        preloader: Preloader,
        *,
        reload: Callable[[], Awaitable[Reloaded]],
        certified: bool = False,
    ) -> None:
        """With `certified`, proxies show a certificate; the operator has the backend's own key instead."""
        self._certified = certified
        self._identity = identity
        self._auth = auth
        self._supervisor = supervisor
        self._loader = loader
        self._preloader = preloader
        self._reload = reload

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Every path that is not open comes here, known or not: nobody learns which exist."""
        values, path = request.headers.getall(GRANT_HEADER, []), request.path
        bare = self._certified and not request.get_extra_info("peercert")
        try:
            grant = self._auth.grant(values, hello=path == HELLO, own=path in OWN or bare)
        except SealError as error:
            why = "no_certificate" if bare else error.reason
            log.warning("control.refused", path=request.path, reason=why, peer=request.remote)
            return refusal(401, "invalid_grant", "no valid grant")
        match request.method, request.path:
            case "GET", path if path == HELLO:
                return self._hello(grant)
            case "POST", path if path == ENSURE:
                return await self._ensure(request)
            case "POST", path if path == REFRESH:
                return await self._refresh(request)
            case "POST", path if path == RELOAD:
                log.info("control.reload", peer=request.remote)
                body = msgspec.json.encode(await self._reload())
                return web.Response(body=body, content_type="application/json")
            case _:
                return refusal(404, "unknown_endpoint", "no such endpoint")

    def _hello(self, grant: Grant) -> web.Response:
        hello = Hello(
            protocol=PROTOCOL,
            name=self._identity.name,
            boot=self._identity.boot,
            nonce=grant.jti,
            engines=self._supervisor.describe(),
        )
        signed = sign_hello(msgspec.json.encode(hello), self._identity.keys.current().signing)
        return web.Response(text=signed, content_type="application/jose")

    async def _ensure(self, request: web.Request) -> web.StreamResponse:
        try:
            body = msgspec.json.decode(await request.read(), type=EnsureRequest)
            load = self._loader.begin(self._auth.token(body.token))
        except SealError as error:
            log.warning("control.token_refused", reason=error.reason, peer=request.remote)
            return refusal(401, error.reason, "the scoped token is not to be believed")
        except (msgspec.DecodeError, UnicodeDecodeError, InvalidRepoError):
            return refusal(400, "invalid_request", "this is no request to ensure a model")
        return await _told(request, self._loader.follow(load))

    async def _refresh(self, request: web.Request) -> web.StreamResponse:
        try:
            wanted = msgspec.json.decode(await request.read(), type=RefreshRequest)
            repo = RepoRef.parse(wanted.repo).id if wanted.repo is not None else None
        except (msgspec.DecodeError, UnicodeDecodeError, InvalidRepoError):
            return refusal(400, "invalid_request", "this is no request to refresh a model")
        log.info("control.refresh", repo=repo, peer=request.remote)
        return await _told(request, self._preloader.refresh(repo))


async def _told(
    request: web.Request, events: AsyncGenerator[Event, None] | AsyncGenerator[RefreshEvent, None]
) -> web.StreamResponse:
    """All events, one JSON object a line."""
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    async with aclosing(events):
        async for event in events:
            await response.write(msgspec.json.encode(event) + b"\n")
    await response.write_eof()
    return response


def refusal(status: int, code: str, message: str) -> web.Response:
    """An error in OpenAI's shape, like everything that Hubgate answers."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return web.Response(
        status=status, body=msgspec.json.encode({"error": error}), content_type="application/json"
    )
