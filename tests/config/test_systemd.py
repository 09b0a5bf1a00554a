"""The units in config/systemd: systemd takes them, and they fit what the programs do."""

import asyncio
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hubgate.proxy.settings import Timeouts
from hubgate.runtime.service_notify import VARIABLE
from tests.backend.harness import free_ports
from tests.backend.test_cli import _started as backend_process
from tests.backend.test_cli import _write as backend_config
from tests.cases import each
from tests.fakes.engine import PATIENCE
from tests.fakes.process import ProxyProcess
from tests.fakes.running_proxy import eventually
from tests.runtime.test_service_notify import Manager

UNITS = Path(__file__).parents[2] / "config" / "systemd"
SERVICES = ["hubgate-proxy.service", "hubgate-backend.service"]
INSTALLED = "/opt/hubgate/venv/bin/hubgate"
# Exposure as `systemd-analyze security` counts it, 0 (none) to 10 in tenths. The backend's engines need more.
EXPOSURE = {"hubgate-proxy.service": 14, "hubgate-backend.service": 22}


def settings(name: str) -> dict[str, str]:
    """The settings of a unit; of those that stand twice, the last."""
    return dict(re.findall(r"^(\w+)=(.*)$", (UNITS / name).read_text(), re.MULTILINE))


def analyze(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)


@each("name", SERVICES)
def test_systemd_takes_it(tmp_path: Path, name: str) -> None:
    """`systemd-analyze verify` has nothing to say; unknown settings would be warnings."""
    unit = tmp_path / name
    unit.write_text((UNITS / name).read_text().replace(INSTALLED, sys.executable))
    found = analyze("verify", "--man=no", "--recursive-errors=no", str(unit))
    assert (found.returncode, found.stderr) == (0, "")


@each("name", SERVICES)
def test_it_is_confined(name: str) -> None:
    """Nobody weakens it by accident: the exposure that systemd sees is no more than it was."""
    found = analyze("security", "--offline=true", f"--threshold={EXPOSURE[name]}", str(UNITS / name))
    assert found.returncode == 0, found.stdout[-300:]


@each("name", SERVICES)
def test_it_fits_the_program(name: str) -> None:
    """The unit waits for READY, takes a wrong configuration for final, and reloads by SIGHUP."""
    unit = settings(name)
    assert unit["Type"] == "notify"
    assert unit["RestartPreventExitStatus"] == "2"
    assert unit["ExecReload"].endswith("-HUP $MAINPID")
    assert unit["KillMode"] == "mixed"  # SIGTERM to the program alone, which ends what it started
    assert unit["NoNewPrivileges"] == "yes"


def test_the_proxy_has_time_to_drain() -> None:
    """It is killed later than the longest drain is over."""
    assert int(settings("hubgate-proxy.service")["TimeoutStopSec"]) > Timeouts().drain + 30


def test_neither_can_read_the_other() -> None:
    """Two users, and the other's folder is not there: an engine that is taken over reads no proxy's key."""
    proxy, backend = (settings(name) for name in SERVICES)
    assert proxy["User"] != backend["User"]
    assert proxy["InaccessiblePaths"] == "-/etc/hubgate/backend"
    assert backend["InaccessiblePaths"] == "-/etc/hubgate/proxy"


async def test_a_proxy_tells_its_manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """READY once it listens and a backend is up, RELOADING at SIGHUP, STOPPING when the drain begins."""
    manager, told = Manager(str(tmp_path / "notify")), list[str]()
    monkeypatch.setenv(VARIABLE, manager.address)

    async def until(word: str) -> None:
        async def there() -> bool:
            told.extend(manager.told())
            return word in told

        await eventually(there)

    with manager.socket:
        async with ProxyProcess.start(tmp_path) as proxy:
            await until("READY=1")
            told.clear()
            proxy.process.send_signal(signal.SIGHUP)
            await until("READY=1")
            assert told == ["RELOADING=1", "READY=1"]
            proxy.process.send_signal(signal.SIGTERM)
            await until("STOPPING=1")
            async with asyncio.timeout(PATIENCE):
                assert await proxy.process.wait() == 0


@pytest.mark.engine  # which a backend looks for before it starts
async def test_a_backend_tells_its_manager(tmp_path: Path) -> None:
    """READY once its preloaded models answer, of which there are none here; STOPPING when it ends."""
    manager = Manager(str(tmp_path / "notify"))
    config = backend_config(tmp_path, free_ports(2))
    with manager.socket, backend_process(config, **{VARIABLE: manager.address}) as process:
        told: list[str] = []

        async def ready() -> bool:
            told.extend(manager.told())
            return "READY=1" in told

        async def stopping() -> bool:
            return "STOPPING=1" in manager.told()

        await eventually(ready)
        process.send_signal(signal.SIGTERM)
        await eventually(stopping)
        assert await asyncio.to_thread(process.wait, PATIENCE) == 0
