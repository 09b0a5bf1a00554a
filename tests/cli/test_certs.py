"""`hubgate certs make`, as its user meets it."""

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from hubgate.cli import main
from tests.cli.conftest import configured
from tests.fakes.keyring import Keyring


def run(*arguments: str | Path) -> Result:
    """What a user gets who types this."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_what_it_makes_is_what_the_programs_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it says to write into the configurations passes their checks."""
    monkeypatch.chdir(tmp_path)
    made = run("certs", "make", "--out", tmp_path, "--backend", "gpu-0", "--backend", "gpu-1")
    assert made.exit_code == 0, made.output
    assert "keep" in made.output
    lines = made.output.splitlines()
    start = lines.index("  listen:")
    listen = yaml.safe_load("\n".join(lines[start:]))["listen"]
    shown = next(yaml.safe_load(line)["tls"] for line in lines if line.startswith("  tls: "))
    ring = Keyring.make(tmp_path / "keys")
    upstream = {"name": "gpu-0", "url": "https://10.0.0.7:8100", "public_key_file": str(ring.backend_public)}
    checked = run("check-config", "--config", configured(tmp_path, upstreams=[{**upstream, "tls": shown}]))
    assert (checked.exit_code, checked.output.splitlines()[0]) == (0, f"{tmp_path / 'proxy.yaml'}: fine")
    backend = {
        "name": "gpu-0",
        "listen": listen,
        "seal": {"key_file": str(ring.backend_private), "proxies_file": str(ring.proxy_public)},
        "engines": {"on_demand": ["demo/*"]},
    }
    (tmp_path / "backend.yaml").write_text(yaml.safe_dump(backend))
    other = run("check-config", "--backend", "--config", tmp_path / "backend.yaml")
    assert "tls" not in other.output


def test_it_says_what_it_did(tmp_path: Path) -> None:
    """A second run keeps everything; an argument that cannot be is refused, and half a pair is no pair."""
    assert run("certs", "make", "--out", tmp_path, "--proxy", "edge").output.count("made ") == 2
    assert run("certs", "make", "--out", tmp_path, "--proxy", "edge", "--renew").output.count("kept ") == 2
    short = run("certs", "make", "--out", tmp_path, "--proxy", "brief", "--days", "1")
    assert short.exit_code == 0
    assert run("certs", "make", "--out", tmp_path, "--backend", "10.0.0.7").exit_code == 2
    assert run("certs", "make", "--out", tmp_path, "--backend", "../x").exit_code == 2
    (tmp_path / "tls_proxy_edge.key").unlink()
    half = run("certs", "make", "--out", tmp_path, "--proxy", "edge")
    assert (half.exit_code, half.output.startswith("Error: ")) == (1, True)
    nowhere = run("certs", "make", "--out", "/proc/nowhere")
    assert (nowhere.exit_code, nowhere.output.startswith("Error: ")) == (1, True)
