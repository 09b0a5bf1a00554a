"""How both origins answer: refusals from the table, ranges, outages, and the line in the log."""

import asyncio
import re
from http import HTTPStatus
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from hubgate.demo.accounts import Refused
from hubgate.demo.log import Entry, RequestLog, stripped
from hubgate.demo.outage import ROWS, Outage
from hubgate.demo.state import HubState

SWITCHES: Final = "/_demo/"
"""Where a separate process finds the switches, on the files origin."""
CLIENT_LEFT: Final = 499

_PAGE: Final = "<!doctype html><title>We will be back soon</title>"
_BEARER: Final = re.compile(r"bearer\s+(\S+)\s*", re.IGNORECASE)


def refuse(
    state: HubState, request: web.Request, refused: Refused, extra: dict[str, str] | None = None
) -> web.Response:
    """Answer with a row of `hub.yaml`'s `errors`."""
    row = state.catalog.errors[refused.row]
    message = row.message.format_map({"endpoint": endpoint(request), **refused.fields})
    headers = {"X-Error-Message": "".join(char if " " <= char <= "~" else "?" for char in message)}
    if row.code:
        headers["X-Error-Code"] = row.code
    headers |= row.headers
    headers |= extra or {}
    if request.path.startswith("/api/"):
        return web.json_response({"error": message}, status=row.status, headers=headers)
    return web.Response(text=message, status=row.status, headers=headers)


def endpoint(request: web.Request) -> str:
    """Give the address by which the caller reached this origin."""
    return f"{request.scheme}://{request.host}"


def bearer(request: web.Request) -> str | None:
    """Give the token of a request: None without one, "" (which nobody has) for a header without sense."""
    values = request.headers.getall("Authorization", [])
    if not values:
        return None
    match = _BEARER.fullmatch(values[0])
    return match[1] if match and len(values) == 1 else ""


def content(request: web.Request, body: bytes, etag: str, headers: dict[str, str]) -> web.Response:
    """Answer with a file's bytes, or with the one range of them that was asked for (RFC 9110, section 14)."""
    headers = {
        "ETag": f'"{etag}"',
        "Accept-Ranges": "bytes",
        "Content-Type": "application/octet-stream",
        **headers,
    }
    try:
        wanted = request.http_range
    except ValueError:
        wanted = slice(None)  # a Range that cannot be understood is ignored
    if wanted == slice(None, None, 1) or wanted == slice(None):
        return web.Response(body=body, headers=headers)
    start, stop, _ = wanted.indices(len(body))
    if start >= stop:
        return web.Response(status=416, headers={"Content-Range": f"bytes */{len(body)}"})
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(body)}"
    return web.Response(status=206, body=body[start:stop], headers=headers)


def middleware(state: HubState, log: RequestLog, origin: str) -> Middleware:
    """Make what surrounds every handler of an origin: outages, unknown pages, and one log entry a request.

    The entry is written before the answer leaves, so whoever has the answer finds it in the log. The
    switches under /_demo/ neither fail nor are logged.
    """

    @web.middleware
    async def around(request: web.Request, handler: Handler) -> web.StreamResponse:
        path = request.rel_url.raw_path
        if path.startswith(SWITCHES):
            return await _handled(state, request, handler)
        status, size = CLIENT_LEFT, 0
        try:
            response, size = await _answered(state, request, handler, state.outages.take(origin, path))
            status = response.status
        finally:
            caller = state.accounts.whose(bearer(request))
            log.add(
                Entry(
                    time=state.clock(),
                    origin=origin,
                    method=request.method,
                    path=stripped(path),
                    query=stripped(request.rel_url.raw_query_string),
                    user=caller.user,
                    token_name=caller.token.name if caller.token else None,
                    status=status,
                    bytes=size,
                    user_agent=stripped(request.headers.get("User-Agent", "")),
                    has_authorization="Authorization" in request.headers,
                )
            )
        return response

    return around


async def _answered(
    state: HubState, request: web.Request, handler: Handler, outage: Outage | None
) -> tuple[web.StreamResponse, int]:
    """Answer, or fail as the outage has it; gives the bytes of the body too."""
    mode = outage.mode if outage else ""
    if mode in ROWS:
        response = refuse(state, request, Refused(ROWS[mode], {}))
        return response, _length(request, response)
    if mode == "page":
        response = web.Response(text=_PAGE, content_type="text/html")
        return response, _length(request, response)
    if mode == "disconnect":
        return _disconnected(request, web.Response()), 0
    if mode == "hang":
        await state.outages.hold()
    if outage and mode == "slow":
        await asyncio.sleep(outage.seconds)
    response = await _handled(state, request, handler)
    if outage and mode == "cut" and _length(request, response) > outage.after_bytes:
        return await _cut(request, response, outage.after_bytes), outage.after_bytes
    return response, _length(request, response)


async def _handled(state: HubState, request: web.Request, handler: Handler) -> web.Response:
    try:
        response = await handler(request)
    except web.HTTPException as error:
        if error.status not in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}:
            raise
        return refuse(state, request, Refused("page_not_found", {}))
    assert isinstance(response, web.Response)  # noqa: S101 - no handler of the demo answers otherwise
    return response


async def _cut(request: web.Request, whole: web.Response, after: int) -> web.StreamResponse:
    response = web.StreamResponse(status=whole.status, headers=whole.headers)
    response.content_length = len(_body(whole))
    await response.prepare(request)
    await response.write(_body(whole)[:after])
    return _disconnected(request, response)


def _disconnected(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.close()  # after what was written
    return response


def _body(response: web.Response) -> bytes:
    return response.body if isinstance(response.body, bytes) else b""


def _length(request: web.Request, response: web.Response) -> int:
    return 0 if request.method == "HEAD" else len(_body(response))
