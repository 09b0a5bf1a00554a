"""A transport for the unmodified SDKs that changes their bytes on the way, as a broken middlebox does."""

import typing
from collections.abc import Callable, Iterable

import httpcore2
import httpx2

Edit = Callable[[bytes], bytes]


class _Stream(httpcore2.AsyncNetworkStream):
    def __init__(self, stream: httpcore2.AsyncNetworkStream, edit: Edit) -> None:
        self._stream = stream
        self._edit = edit

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return await self._stream.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._stream.write(self._edit(buffer), timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    def get_extra_info(self, info: str) -> typing.Any:
        return self._stream.get_extra_info(info)


class _Network(httpcore2.AsyncNetworkBackend):
    def __init__(self, edit: Edit) -> None:
        self._edit = edit
        self._below = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        stream = await self._below.connect_tcp(host, port, timeout, local_address, socket_options)
        return _Stream(stream, self._edit)


def meddling(edit: Edit) -> httpx2.AsyncClient:
    """A client, for the SDK's `http_client`, each of whose writes goes through `edit`."""
    transport = httpx2.AsyncHTTPTransport()
    transport._pool = httpcore2.AsyncConnectionPool(network_backend=_Network(edit))
    return httpx2.AsyncClient(transport=transport)
