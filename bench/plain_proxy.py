"""A plain aiohttp pass-through, as anyone would write it: for orientation."""

from collections.abc import AsyncIterator

import aiohttp
import click
import uvloop
from aiohttp import web

from bench.messages import LOCAL

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host"}


def app(upstream: str) -> web.Application:
    """Send everything on to `upstream`, and what comes back to the caller as it comes."""
    session = web.AppKey("session", aiohttp.ClientSession)

    async def client(running: web.Application) -> AsyncIterator[None]:
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as running[session]:
            yield

    async def forward(request: web.Request) -> web.StreamResponse:
        sent = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        url = upstream + request.path_qs
        body = await request.read()
        async with request.app[session].request(request.method, url, headers=sent, data=body) as found:
            answer = web.StreamResponse(status=found.status)
            answer.headers["Content-Type"] = found.headers["Content-Type"]
            if found.content_length is not None:
                answer.content_length = found.content_length
            await answer.prepare(request)
            async for data in found.content.iter_any():
                await answer.write(data)
            await answer.write_eof()
            return answer

    made = web.Application(client_max_size=64 * 1024 * 1024)
    made.cleanup_ctx.append(client)
    made.router.add_route("*", "/{path:.*}", forward)
    return made


@click.command()
@click.option("--port", required=True, type=int)
@click.option("--upstream", required=True, type=int)
def main(port: int, upstream: int) -> None:
    """Serve until killed."""
    loop = uvloop.new_event_loop()
    made = app(f"http://{LOCAL}:{upstream}")
    web.run_app(made, host=LOCAL, port=port, access_log=None, print=None, loop=loop, backlog=4096)


if __name__ == "__main__":
    main()
