"""However a run ends, no process of it is left. Found by run id, whoever their parent is by then."""

import contextlib
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.e2e.product import free_ports, processes_of, started, until

PROJECT = Path(__file__).parents[2]


def _vllm_is_starting(run_id: str) -> bool:
    """Whether vLLM's API server is there, under its reaper."""
    return any("vllm.entrypoints" in words and "reaper" not in words for words in _commands(run_id))


def _core_is_starting(run_id: str) -> bool:
    """Whether it has its engine core under it, which outlives it for minutes if nobody ends it."""
    return any("spawn_main" in words for words in _commands(run_id))


def _commands(run_id: str) -> Iterator[str]:
    for process in processes_of(run_id):
        with contextlib.suppress(psutil.Error):
            yield " ".join(process.cmdline())


def test_ending_the_launcher_leaves_nothing(tmp_path: Path) -> None:
    """SIGTERM of the launcher takes hub, backend, proxy and all of vLLM along."""
    with started(tmp_path / "run", ready=False) as product:
        until(lambda: _core_is_starting(product.run_id), "vLLM's engine core is starting", 90)
        assert len(product.processes()) >= 7
        product.launcher.terminate()
        product.launcher.wait(timeout=60)
        until(lambda: not product.processes(), "no process of the run is left")


def test_ctrl_c_in_a_real_terminal_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C typed into the terminal of `make run` stops everything, and says so."""
    with _terminal_run(tmp_path / "run") as (screen, child, run_id):
        os.write(screen.terminal, b"\x03")
        os.waitpid(child, 0)
        until(lambda: not processes_of(run_id), "no process of the run is left")
        assert "nothing is left running" in screen.text()


def test_a_killed_parent_leaves_nothing(tmp_path: Path) -> None:
    """SIGKILL of the shell that called `make run` ends the run too."""
    with _terminal_run(tmp_path / "run", under_a_shell=True) as (_, child, run_id):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        until(lambda: not processes_of(run_id), "no process of the run is left")


@contextmanager
def _terminal_run(root: Path, *, under_a_shell: bool = False) -> Iterator[tuple["Screen", int, str]]:
    """`make run` in a pseudo-terminal: what it shows, the child's pid, the run id."""
    run_id = f"terminal-{os.getpid()}-{time.monotonic_ns()}"
    command = f"make --no-print-directory run RUN_DIR={root} RUN_PORTS='{_ports()}'"
    arguments = ["bash", "-c", f"{command}; true"] if under_a_shell else ["bash", "-c", f"exec {command}"]
    child, terminal = pty.fork()
    if child == 0:
        for number in (signal.SIGINT, signal.SIGHUP):  # whoever runs the tests may ignore them
            signal.signal(number, signal.SIG_DFL)
        os.chdir(PROJECT)
        os.execvpe("bash", arguments, {**os.environ, "HUBGATE_RUN_ID": run_id, "TERM": "xterm"})  # noqa: S606
    screen = Screen(terminal)
    screen.start()
    try:
        until(lambda: _vllm_is_starting(run_id), "vLLM is starting", 90)
        yield screen, child, run_id
    finally:
        os.close(terminal)
        for left in processes_of(run_id):
            with suppress(psutil.NoSuchProcess):
                left.kill()


def _ports() -> str:
    ports = free_ports()
    return (
        f"--port {ports.proxy} --backend-port {ports.backend} "
        f"--engine-port {ports.engine} --hub-port {ports.hub}"
    )


class Screen(threading.Thread):
    """Reads a terminal for as long as somebody writes to it, as a real one does."""

    def __init__(self, terminal: int) -> None:
        super().__init__(daemon=True)
        self.terminal = terminal
        self._parts: list[bytes] = []

    def run(self) -> None:
        # Linux says EIO when the last process has closed its end.
        with contextlib.suppress(OSError):
            while data := os.read(self.terminal, 65536):
                self._parts.append(data)

    def text(self) -> str:
        """All that was shown, once everything that could write has ended."""
        self.join(timeout=60)
        return b"".join(self._parts).decode(errors="replace")


def test_the_ports_in_use_are_named(tmp_path: Path) -> None:
    """A second run on the same ports says so at once and starts nothing."""
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ran = subprocess.run(
            [sys.executable, "-m", "hubgate.demo.run", "--dir", str(tmp_path), "--hub-port", str(port)],
            capture_output=True,
            text=True,
            check=False,
        )
    assert ran.returncode == 1
    assert f"{port} (demo Hub)" in ran.stderr
