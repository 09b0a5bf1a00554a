"""What systemd is told of a service: datagrams as in sd_notify(3)."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from hubgate.runtime import service_notify
from hubgate.runtime.service_notify import VARIABLE, ServiceNotifier
from tests.cases import each


class Manager:
    """Stands for systemd: what it was told, one assignment after the other."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.bind(address.replace("@", "\0", 1))

    def told(self) -> list[str]:
        """What has come since the last time, without values that are times."""
        lines: list[str] = []
        while True:
            try:
                lines += self.socket.recv(4096).decode().splitlines()
            except BlockingIOError:
                return [line for line in lines if not line.startswith("MONOTONIC_USEC=")]


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    """Listens until the test is over."""
    one = Manager(str(tmp_path / "notify"))
    with one.socket:
        yield one


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_notify, "PAUSE", 0)


async def ready(manager: Manager) -> ServiceNotifier:
    notifier = ServiceNotifier({VARIABLE: manager.address})
    await notifier.report_ready(lambda: None)
    assert manager.told() == ["READY=1", "STATUS=ready"]
    return notifier


async def test_it_is_ready_when_nothing_speaks_against_it(manager: Manager) -> None:
    """Each reason is a status, told once; READY follows the last of them."""
    reasons = iter(["no upstream is up", "no upstream is up", "the trail cannot be written", None])
    await ServiceNotifier({VARIABLE: manager.address}).report_ready(lambda: next(reasons))
    told = ["STATUS=no upstream is up", "STATUS=the trail cannot be written", "READY=1", "STATUS=ready"]
    assert manager.told() == told


async def test_a_reload_begins_and_ends(manager: Manager) -> None:
    """READY follows RELOADING, also where the reload fails; before a service is ready there is neither."""
    early = ServiceNotifier({VARIABLE: manager.address})
    with early.reloading():
        pass
    assert manager.told() == []
    notifier = await ready(manager)
    with notifier.reloading():
        assert manager.told() == ["RELOADING=1"]
    assert manager.told() == ["READY=1"]
    with suppress(ZeroDivisionError), notifier.reloading():
        raise ZeroDivisionError
    assert manager.told() == ["RELOADING=1", "READY=1"]


async def test_a_service_that_stops_reloads_no_more(manager: Manager) -> None:
    """STOPPING is the last word."""
    notifier = await ready(manager)
    notifier.stopping()
    with notifier.reloading():
        pass
    assert manager.told() == ["STOPPING=1", "STATUS=draining"]


async def test_the_abstract_namespace(tmp_path: Path) -> None:
    """An address that begins with @ is no file."""
    manager = Manager(f"@{tmp_path}")
    with manager.socket:
        await ready(manager)


@each("environ", [{}, {VARIABLE: ""}, {VARIABLE: "/nowhere/at/all"}])
async def test_nobody_listens(environ: dict[str, str]) -> None:
    """Without systemd, or once it is gone, nothing is sent and nothing fails."""
    notifier = ServiceNotifier(environ)
    async with asyncio.timeout(10):
        await notifier.report_ready(lambda: None)
    with notifier.reloading():
        pass
    notifier.stopping()
