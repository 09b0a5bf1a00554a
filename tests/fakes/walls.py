"""A company's walls: a proxy that is the only way out, and a Hub behind a certificate of the company's."""

import asyncio
import ssl
from base64 import b64decode
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from hubgate.demo.hub import DemoHub
from tests.fakes.certificates import Authority
from tests.fakes.engine import LOCAL

HUB = "hub.test"  # which no DNS knows: the proxy does


@dataclass
class Walls:
    """`asked` are the requests that the proxy got, `seen` all bytes that it could read of the rest."""

    port: int = 0
    known: Mapping[str, int] = field(default_factory=dict)  # ports of this machine, by what is asked for
    password: str = ""  # USER:PASSWORD; "": anybody may pass
    asked: list[str] = field(default_factory=list)
    seen: bytearray = field(default_factory=bytearray)

    @property
    def url(self) -> str:
        return f"http://{LOCAL}:{self.port}"

    @property
    def url_with_password(self) -> str:
        return f"http://{self.password}@{LOCAL}:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection (RFC 9110, section 9.3.6)."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *headers = head.splitlines()
        self.asked.append(line)
        method, target, _ = line.split(" ")
        pairs = (header.partition(":") for header in headers)
        given = [value.strip() for name, _, value in pairs if name.lower() == "proxy-authorization"]
        passwords = [b64decode(value.removeprefix("Basic ")).decode() for value in given]
        if self.password and passwords != [self.password]:
            await _refuse(writer, b"407 Proxy Authentication Required")
        elif method != "CONNECT" or target not in self.known:
            await _refuse(writer, b"403 Forbidden")
        else:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            await joined(reader, writer, self.known[target], self.seen.extend)


async def _refuse(writer: asyncio.StreamWriter, status: bytes) -> None:
    writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    writer.close()


def _as_it_is(data: bytes) -> bytes:
    return data


async def joined(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    port: int,
    look: Callable[[bytes], object] = bool,
    change: Callable[[bytes], bytes] = _as_it_is,
) -> None:
    """Pass on what comes, both ways, until one side ends; what comes back is changed."""
    there, back = await asyncio.open_connection(LOCAL, port)

    async def pump(
        source: asyncio.StreamReader, sink: asyncio.StreamWriter, change: Callable[[bytes], bytes]
    ) -> None:
        try:
            while data := await source.read(65536):
                look(data)
                sink.write(change(data))
                await sink.drain()
        except (ConnectionError, ssl.SSLError):
            pass
        finally:
            sink.close()

    await asyncio.gather(pump(reader, back, _as_it_is), pump(there, writer, change))


@asynccontextmanager
async def walled(hub: DemoHub, folder: Path, password: str = "") -> AsyncIterator[Walls]:
    """A proxy that knows the way to `https://hub.test`, which is this Hub behind TLS, its files too.

    The CA is `folder/ca.pem`.
    """
    authority = Authority()
    (folder / "ca.pem").write_bytes(authority.pem)
    (folder / "hub").mkdir()
    pair = authority.issue(folder / "hub", HUB)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair["cert_file"], pair["key_file"])
    plain, files = (int(url.rpartition(":")[2]) for url in (hub.endpoint, hub.files_endpoint))
    walls, tasks = Walls(password=password), set[asyncio.Task[None]]()

    def begin(work: Coroutine[None, None, None]) -> None:
        tasks.add(asyncio.create_task(work))

    def secured(data: bytes) -> bytes:
        """Links to files stay behind TLS, as the real Hub's do."""
        return data.replace(f"http://{HUB}:{files}".encode(), f"https://{HUB}:{files}".encode())

    async def listen(serve: Callable[..., Coroutine[None, None, None]], **options: Any) -> asyncio.Server:
        return await asyncio.start_server(lambda *ends: begin(serve(*ends)), LOCAL, 0, **options)

    servers = [
        await listen(walls.serve),
        await listen(partial(joined, port=plain, change=secured), ssl=context),
        await listen(partial(joined, port=files), ssl=context),
    ]
    walls.port, hub_port, files_port = (server.sockets[0].getsockname()[1] for server in servers)
    walls.known = {f"{HUB}:443": hub_port, f"{HUB}:{files}": files_port}
    try:
        yield walls
    finally:
        for server in servers:
            server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
