"""Lock-outs on the admin port, for who holds the key in `admin.key_file`."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from hubgate.proxy.auth.block import MAX_BLOCKS, parse_who
from hubgate.proxy.blocks import messages
from hubgate.proxy.blocks.lock_outs import LockOuts
from hubgate.proxy.blocks.messages import AddBlock, AdminError
from hubgate.runtime.operator_key import KeyGuard
from hubgate.wire.keyfile import KeyFile
from hubgate.wire.secret import Secret

Handler = Callable[[web.Request], Awaitable[web.Response]]


class BlocksApi:
    """`GET` and `POST /blocks`, `DELETE /blocks/{who}`. Without the key nothing is read, and nothing told."""

    def __init__(
        self,
        lock_outs: LockOuts,
        key: KeyFile[Secret] | None,
        guard: KeyGuard,
        local_keys: frozenset[str],
    ) -> None:
        """`local_keys` are the names in `keys:`."""
        self._lock_outs = lock_outs
        self._key = key
        self._guard = guard
        self._local_keys = frozenset(name.lower() for name in local_keys)

    def routes(self) -> list[web.RouteDef]:
        """For the admin port's application."""
        return [
            web.get(messages.PATH, self._guarded(self._list)),
            web.post(messages.PATH, self._guarded(self._add)),
            web.delete(messages.PATH + "/{who}", self._guarded(self._lift)),
        ]

    def _guarded(self, handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.Response:
            if self._key is None:
                return _error(403, "name a file with a key in admin.key_file, and restart this proxy")
            refusal = self._guard.refusal(request, [self._key], commands=True)
            if refusal is not None:
                wrong = "not the key in this proxy's admin.key_file"
                response = _error(refusal.status, wrong if refusal.status == 401 else refusal.message)
                response.headers.update(refusal.headers)
                return response
            return await handler(request)

        return guarded

    async def _list(self, _: web.Request) -> web.Response:
        return _json(200, self._lock_outs.listed())

    async def _add(self, request: web.Request) -> web.Response:
        try:
            asked = msgspec.json.decode(await request.read(), type=AddBlock)
            who = parse_who(asked.who)
            reason = messages.check_reason(asked.reason)
        except msgspec.ValidationError as error:
            return _error(400, str(error))
        except (msgspec.DecodeError, UnicodeDecodeError):
            return _error(400, "the body is not JSON")
        except ValueError as error:
            return _error(400, str(error))
        if self._lock_outs.full(who):
            return _error(409, f"{MAX_BLOCKS} are locked out already; lift some, or close `callers`")
        change = await self._lock_outs.add(who, asked.seconds, reason, _by(request))
        if who in self._local_keys:
            advice = f"{who} is also the name of a local key, which this does not lock out: say key:{who}"
            change = msgspec.structs.replace(change, advice=advice)
        return _json(503 if change.fault else 200, change)

    async def _lift(self, request: web.Request) -> web.Response:
        try:
            who = parse_who(request.match_info["who"])
        except ValueError as error:
            return _error(400, str(error))
        change = await self._lock_outs.lift(who, _by(request))
        if change is None:
            return _error(
                404, f"{who} is not in this list; callers.block of the configuration is another one"
            )
        return _json(503 if change.fault else 200, change)


def _by(request: web.Request) -> str:
    return f"admin@{request.remote}"


def _json(status: int, body: Any) -> web.Response:
    return web.Response(
        status=status,
        body=msgspec.json.encode(body),
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


def _error(status: int, message: str) -> web.Response:
    return _json(status, AdminError(message))
