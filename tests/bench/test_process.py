"""Children are ended by their ids, whatever happens."""

import sys
from pathlib import Path

import psutil
import pytest

from bench.process import Child, StartError, free_port, running, until_listening
from tests.fakes.running_proxy import eventually

FAMILY = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""


async def _family(child: Child) -> tuple[int, ...]:
    while not child.log.read_text().strip():
        assert child.process.returncode is None
    return child.pids()


async def test_a_stubborn_child_and_its_child_are_ended(tmp_path: Path) -> None:
    """What ignores SIGTERM is killed, and so is what it started."""
    async with running("stubborn", sys.executable, "-c", FAMILY, folder=tmp_path, grace=0.2) as child:
        pids = await _family(child)
        assert len(pids) == 2

    async def gone() -> bool:
        return not any(_alive(pid) for pid in pids)

    await eventually(gone)


def _alive(pid: int) -> bool:
    """A process that ended, and that nobody has asked for its end yet, is not alive."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_an_exception_ends_the_child(tmp_path: Path) -> None:
    """A failure while measuring leaves nothing running."""
    code = "import time; time.sleep(600)"
    with pytest.raises(KeyError):
        async with running("sleeper", sys.executable, "-c", code, folder=tmp_path) as child:
            raise KeyError
    assert child.process.returncode is not None
    with pytest.raises(StartError):
        child.pids()


async def test_a_child_that_dies_says_why(tmp_path: Path) -> None:
    """Its last words are in the error."""
    code = "import sys; sys.exit('no such option')"
    async with running("broken", sys.executable, "-c", code, folder=tmp_path) as child:
        with pytest.raises(StartError, match="no such option"):
            await until_listening(child, free_port())


async def test_children_find_no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a peer holds nothing of ours but the path."""
    monkeypatch.setenv("HF_TOKEN", "hf_ours")
    code = "import os; print(sorted(os.environ))"
    async with running("curious", sys.executable, "-c", code, folder=tmp_path) as child:
        await child.process.wait()
        assert "HF_TOKEN" not in child.log.read_text()
        assert "'PATH'" in child.log.read_text()


def test_ports_are_free_and_handed_out_once() -> None:
    """No port twice, and none that an outgoing connection could take."""
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split()[0])
    assert max(ports) < lowest
