"""The control API: proxies ask who we are, and for models to be made warm. Default deny."""

from contextlib import aclosing
from dataclasses import dataclass

import msgspec
import structlog
from aiohttp import web

from backend.guard import Guard
from backend.loads import Loads
from backend.supervisor import Supervisor
from wire.control import GRANT_HEADER, PROTOCOL, EnsureRequest, Hello
from wire.keyfile import KeyFile
from wire.keys import BackendKeys
from wire.repo import InvalidRepoError
from wire.seal import Grant, SealError, sign_hello

MAX_BODY = 64 * 1024  # bytes
HELLO = "/v1/hello"
ENSURE = "/v1/ensure"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this backend is, for one boot of it, and the key that proves it."""

    name: str
    boot: str
    keys: KeyFile[BackendKeys]


class ControlApi:
    """`GET /v1/hello` and `POST /v1/ensure`; their messages are those of `wire.control`."""

    def __init__(self, identity: Identity, guard: Guard, supervisor: Supervisor, loads: Loads) -> None:
        self._identity = identity
        self._guard = guard
        self._supervisor = supervisor
        self._loads = loads

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Every path that is not open comes here, known or not: nobody learns which exist."""
        try:
            grant = self._guard.grant(request.headers.getall(GRANT_HEADER, []), hello=request.path == HELLO)
        except SealError as error:
            log.warning("control.refused", path=request.path, reason=error.reason, peer=request.remote)
            return refusal(401, "invalid_grant", "no valid grant")
        match request.method, request.path:
            case "GET", path if path == HELLO:
                return self._hello(grant)
            case "POST", path if path == ENSURE:
                return await self._ensure(request)
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
            load = self._loads.begin(self._guard.token(body.token))
        except SealError as error:
            log.warning("control.token_refused", reason=error.reason, peer=request.remote)
            return refusal(401, error.reason, "the scoped token is not to be believed")
        except (msgspec.DecodeError, UnicodeDecodeError, InvalidRepoError):
            return refusal(400, "invalid_request", "this is no request to ensure a model")
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        async with aclosing(self._loads.follow(load)) as events:
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
