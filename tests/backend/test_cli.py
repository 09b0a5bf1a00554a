"""The program as a process: how it starts, refuses to start, and ends."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from tests.backend.harness import free_ports
from tests.fakes.keyring import Keyring

CODE = """
    import sys
    from pathlib import Path
    from hubgate.backend import cli
    from hubgate.backend.settings import BackendSettings
    from hubgate.runtime.config import ConfigError, load
    try:
        sys.exit(cli.run(lambda: load(BackendSettings, Path(sys.argv[1]))))
    except ConfigError as error:
        print("\\n".join(error.faults))
        sys.exit(2)
"""


def _write(folder: Path, port: int, **changes: object) -> Path:
    keyring = Keyring.make(folder / "keys")
    config = {
        "listen": {"host": "127.0.0.1", "port": port},
        "name": "gpu-0",
        "seal": {"key_file": str(keyring.backend_private), "proxies_file": str(keyring.proxy_public)},
        "hub": {"endpoint": "http://127.0.0.1:9"},
        "store": {"path": str(folder / "store")},
        "engines": {"first_port": port + 1, "on_demand": ["demo/*"]},
        **changes,
    }
    path = folder / "backend.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


@contextmanager
def _started(config: Path, **environ: str) -> Iterator["subprocess.Popen[str]"]:
    argv = [sys.executable, "-c", textwrap.dedent(CODE), str(config)]
    pipe = subprocess.PIPE
    environment = {**os.environ, **environ}
    with subprocess.Popen(argv, stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


def _refused(config: Path, **environ: str) -> str:
    with _started(config, **environ) as process:
        output, _ = process.communicate(timeout=20)
        assert process.returncode == 2
        return output


@pytest.mark.engine  # which a backend looks for before it starts
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_quickly_and_cleanly_when_told_to(tmp_path: Path, number: signal.Signals) -> None:
    """Exit code 0, and another backend can take the store."""
    port = free_ports(2)
    with _started(_write(tmp_path, port)) as process:
        for _ in range(200):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=2) as answer:
                    assert answer.status == 200
                break
            except OSError:
                time.sleep(0.05)
        process.send_signal(number)
        output, errors = process.communicate(timeout=5)
    assert process.returncode == 0, errors
    assert output == ""
    assert "backend.started" in errors
    assert "Traceback" not in errors


def test_all_that_is_wrong_is_said_before_anything_starts(tmp_path: Path) -> None:
    """Both key files and the environment, in one go."""
    config = _write(tmp_path, free_ports(2), seal={"key_file": "/no/a.key", "proxies_file": "/no/b.pub"})
    said = _refused(config, VLLM_USE_RUST_FRONTEND="1")
    for part in ("seal.key_file", "seal.proxies_file", "VLLM_USE_RUST_FRONTEND"):
        assert part in said
    assert not (tmp_path / "store").exists()


def test_the_halves_of_a_key_are_not_mixed_up(tmp_path: Path) -> None:
    """A private key in the place of a public one is a fault, and is not quoted."""
    config = _write(tmp_path, free_ports(2))
    keys = tmp_path / "keys"
    seal = {
        "key_file": str(keys / "hubgate_backend.pub"),
        "proxies_file": str(keys / "hubgate_proxy.key"),
    }
    config.write_text(yaml.safe_dump({**yaml.safe_load(config.read_text()), "seal": seal}), encoding="utf-8")
    said = _refused(config)
    assert "seal.key_file" in said
    assert "seal.proxies_file" in said
    assert '"d"' not in said


@pytest.mark.engine  # which a backend looks for before it starts
def test_a_port_that_is_taken_is_a_fault_of_the_configuration(tmp_path: Path) -> None:
    """Said with the address, and all that was started is ended."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port}" in _refused(_write(tmp_path, port))
