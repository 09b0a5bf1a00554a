"""Accepts connections by hand, where what comes before a request is worth a limit: the handshake of TLS.

asyncio's own server tells of a connection with TLS only once its handshake is over, so that those who never
begin one would be bounded by nothing but the process's descriptors.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Final

import structlog

AT_ONCE: Final = 64  # connections that are accepted before anything else has its turn
PAUSE: Final = 1.0  # seconds without accepting, after the system could not

log = structlog.get_logger("http")


def bind(host: str, port: int, backlog: int) -> list[socket.socket]:
    """Listen on every address of a host, as asyncio's server does. Raises `OSError`."""
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listeners: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            listener = socket.socket(family, kind, protocol)
            listeners.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(address)
            listener.listen(backlog)
            listener.settimeout(0)
    except OSError:
        for listener in listeners:
            listener.close()
        raise
    return listeners


class Acceptor:
    """Hands over each connection to `accepted`, with the peer's address."""

    def __init__(
        self, listeners: list[socket.socket], accepted: Callable[[socket.socket, str], None]
    ) -> None:
        self._listeners = listeners
        self._accepted = accepted
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._read()

    def close(self) -> None:
        """Accept nothing more."""
        self._closed = True
        for listener in self._listeners:
            self._loop.remove_reader(listener)
            listener.close()

    def _read(self) -> None:
        for listener in () if self._closed else self._listeners:
            self._loop.add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(AT_ONCE):
            try:
                connection, address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no descriptor, or no memory: it would fail again at once
                log.warning("no connection can be accepted", error=error.strerror, pause_seconds=PAUSE)
                for one in self._listeners:
                    self._loop.remove_reader(one)
                self._loop.call_later(PAUSE, self._read)
                return
            connection.settimeout(0)
            self._accepted(connection, address[0])
