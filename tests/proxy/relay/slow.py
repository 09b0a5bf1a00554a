"""Slow callers, and a proxy with little room and little patience for them."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from unittest.mock import patch

import msgspec

from hubgate.proxy.http import caller_connection as callers
from hubgate.proxy.http import server
from tests.fakes.engine import LOCAL
from tests.fakes.raw import request
from tests.fakes.running_proxy import ALICE, BASE, CHAT, Edge

LARGE = 64_000  # bytes of an answer: more than the buffers on the way, which are small here
PIECE = b"GET /health HTTP/1.1\r\nX-Slow: 1\r\n"  # of a head


def post(**fields: Any) -> bytes:
    body = msgspec.json.encode({"model": BASE, "messages": [], **fields})
    return request("POST", CHAT, [("Authorization", f"Bearer {ALICE}")], body)


@contextmanager
def small(stalled: float = 0.05) -> Iterator[None]:
    """Small buffers on the proxy's side, and little patience with who takes nothing."""
    made = callers.CallerConnection.connection_made

    def begun(connection: callers.CallerConnection, transport: asyncio.BaseTransport) -> None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
        made(connection, transport)

    with (
        patch.object(callers, "HIGH_WATER", 1024),
        patch.object(callers, "STALLED", stalled),
        patch.object(callers, "LINGER", stalled),
        patch.object(server, "KEEPALIVE", 0.1),
        patch.object(callers.CallerConnection, "connection_made", begun),
    ):
        yield


@asynccontextmanager
async def small_socket(edge: Edge) -> AsyncIterator[socket.socket]:
    """A caller's connection on which nothing is read yet."""
    with socket.socket() as caller:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        caller.settimeout(0)
        await asyncio.get_running_loop().sock_connect(caller, (LOCAL, edge.port))
        yield caller
