"""Connections that are accepted by hand."""

import asyncio
import errno
import socket

import pytest
import structlog

from hubgate.proxy.http import acceptor
from hubgate.proxy.http.acceptor import Acceptor, bind
from tests.fakes.running_proxy import eventually


class Listener(socket.socket):
    """One that fails so many times, as where no descriptor is left."""

    failures = 0
    asked = 0

    def accept(self) -> tuple[socket.socket, tuple[str, int]]:
        self.asked += 1
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


async def test_it_does_not_spin_where_nothing_can_be_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits, says so, and goes on: who waits in the backlog is served then."""
    monkeypatch.setattr(acceptor, "PAUSE", 0.05)
    (plain,) = bind("127.0.0.1", 0, 10)
    listener = Listener(fileno=plain.detach())
    listener.failures = 2
    accepted: list[str] = []

    def take(connection: socket.socket, peer: str) -> None:
        accepted.append(peer)
        connection.close()

    with structlog.testing.capture_logs() as logged:
        listening = Acceptor([listener], take)
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        assert await reader.read() == b""
        writer.close()
    assert accepted == ["127.0.0.1"]
    assert [entry["error"] for entry in logged] == ["Too many open files"] * 2
    assert listener.asked <= 4  # two that failed, one that did not, and one that found nobody
    listening.close()


async def test_it_is_closed_while_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read of a listener that is closed."""
    monkeypatch.setattr(acceptor, "PAUSE", 0.01)
    (plain,) = bind("127.0.0.1", 0, 10)
    listener = Listener(fileno=plain.detach())
    listener.failures = 1
    listening = Acceptor([listener], lambda connection, _: connection.close())
    _, writer = await asyncio.open_connection(*listener.getsockname())

    async def failed() -> bool:
        return not listener.failures

    await eventually(failed)
    listening.close()
    await asyncio.sleep(0.02)  # it would have gone on
    assert listener.asked == 1
    writer.close()


def test_a_port_that_is_taken() -> None:
    """It is an error at the start, and leaves nothing open."""
    (taken,) = bind("127.0.0.1", 0, 10)
    with taken, pytest.raises(OSError, match="in use"):
        bind("127.0.0.1", taken.getsockname()[1], 10)
