"""docs/deploy.md: every block of commands is run here, or says what it needs that no test has."""

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hubgate.proxy.settings import Admin, Listen
from tests.backend.harness import free_ports
from tests.cli.test_process import ended, logged, start

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "deploy.md").read_text()
BLOCK = re.compile(r"^(?:<!-- (run|needs): ([^\n]+) -->\n)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What a block may need that no test has.
NEEDS = ("a GPU", "a cluster", "the real Hub", "the real PyPI")
# Commands that would change this machine: they only write down that they were called.
STAND_INS = ("systemctl", "systemd-sysusers", "chown")
RUN = ["install", "backup", "upgrade", "kubernetes"]


def blocks() -> list[tuple[str, str, str, str]]:
    """How a block is tried, by what, its language, its text."""
    return [match.groups("") for match in BLOCK.finditer(PAGE)]  # type: ignore[misc]


def commands(story: str) -> str:
    return "".join(text for how, what, _, text in blocks() if (how, what) == ("run", story))


def config(language: str) -> str:
    """The one configuration in this language, as the page has it."""
    (found,) = [text for _, _, kind, text in blocks() if kind == language]
    return found


class Machine:
    """A machine whose root is a folder: paths lead there, and what would change it is written down."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        self.called = folder / "called"
        binaries = folder / "bin"
        binaries.mkdir()
        for name in STAND_INS:
            (binaries / name).write_text(f'#!/bin/sh\necho {name} "$@" >>{self.called}\n')
        (binaries / "hubgate").write_text(f'#!/bin/sh\nexec {sys.executable} -P -m hubgate.cli "$@"\n')
        for path in binaries.iterdir():
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        python = str(Path(sys.executable).parent)
        self.environ = {**os.environ, "PATH": f"{binaries}:{python}:{os.environ['PATH']}"}
        (folder / "root").mkdir()
        (folder / "config").symlink_to(ROOT / "config")

    def run(self, script: str, said: str = "") -> str:
        """Run commands of the page, each of which has to succeed."""
        for path in ("/etc/", "/var/lib", "/usr/lib/sysusers.d", "/root/"):
            script = re.sub(rf"(?<![\w.]){path}", f"{self.root}{path}", script)
        script = script.replace("tar -C /", f"tar -C {self.root}")
        found = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.root,
            env=self.environ,
            input=said,
            capture_output=True,
            text=True,
            check=False,
        )
        assert found.returncode == 0, found.stdout + found.stderr
        return found.stdout


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """One that has nothing yet."""
    return Machine(tmp_path)


def test_each_block_is_run_or_says_why_not() -> None:
    """No command stands there that nobody tries, and no story is left out."""
    shells = [(how, what) for how, what, language, _ in blocks() if language in ("sh", "bash", "console", "")]
    assert shells
    assert [one for one in shells if not one[0]] == []
    assert {what for how, what in shells if how == "run"} == set(RUN)
    assert all(what.startswith(NEEDS) for how, what in shells if how == "needs")


@pytest.mark.engine  # which check-config looks for
def test_two_machines_are_installed(machine: Machine) -> None:
    """The configurations are fine, the token is nobody else's to read, and both services are started."""
    said = machine.run(commands("install"), said="hf_service\n")
    assert said.count(": fine") == 2
    token = machine.root / "etc/hubgate/backend/service.token"
    assert (token.read_text(), token.stat().st_mode & 0o777) == ("hf_service\n", 0o600)
    called = machine.called.read_text().splitlines()
    for side in ("proxy", "backend"):
        assert f"systemctl enable --now --no-block hubgate-{side}" in called
        assert f"chown -R hubgate-{side}: {machine.root}/etc/hubgate/{side}" in called
        unit = (machine.root / f"etc/systemd/system/hubgate-{side}.service").read_text()
        # What the unit starts is what was installed and written.
        assert f"/opt/hubgate/venv/bin/hubgate {side} --config /etc/hubgate/{side}/{side}.yaml" in unit


async def test_a_backup_can_be_restored(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and trail come back elsewhere as they were, and verify; the store stays behind."""
    first = commands("install").splitlines()[0]
    assert first.startswith("hubgate init ")
    machine.run(first)
    trails = machine.root / "var/lib/hubgate-proxy"
    trails.mkdir(parents=True)
    store = machine.root / "var/lib/hubgate-backend/store"
    store.mkdir(parents=True)
    (store / "weights").write_text("others' models")
    port = free_ports(2)
    for section, number in (("LISTEN", port), ("ADMIN", port + 1)):
        monkeypatch.setenv(f"HUBGATE_{section}__PORT", str(number))
    process = await start(machine.root / "etc/hubgate/proxy/proxy.yaml")
    await logged(process, "listening")
    process.terminate()
    assert (await ended(process))[0] == 0
    before = {path: path.read_bytes() for path in (machine.root / "etc").rglob("*") if path.is_file()}
    before |= {path: path.read_bytes() for path in trails.rglob("*") if path.is_file()}
    make, restore = [text for how, what, _, text in blocks() if (how, what) == ("run", "backup")]
    machine.run(make)
    for path in (*before, store / "weights"):
        path.unlink()
    assert "records, whole" in machine.run(restore)
    assert {path: path.read_bytes() for path in before} == before
    assert not (store / "weights").exists()
    assert (machine.root / "root/hubgate-backup.tgz").stat().st_mode & 0o077 == 0


def test_an_upgrade_checks_before_it_restarts(machine: Machine) -> None:
    """A faulty configuration stops before the restart."""
    machine.run(commands("install").splitlines()[0])
    machine.run(commands("upgrade"))
    assert machine.called.read_text().splitlines()[0] == "systemctl restart hubgate-proxy"
    machine.called.unlink()
    with (machine.root / "etc/hubgate/proxy/proxy.yaml").open("a") as file:
        file.write("unknown: key\n")
    with pytest.raises(AssertionError, match="unknown key"):
        machine.run(commands("upgrade"))
    assert not machine.called.exists()


def test_keys_for_a_cluster(machine: Machine) -> None:
    """The files that the next block hands over are there, and the manifests are rendered."""
    assert "kind: StatefulSet" in machine.run(commands("kubernetes"))
    named = re.findall(r"--from-file=(hubgate-keys/\S+)", PAGE)
    assert len(named) == 6
    assert [one for one in named if not (machine.root / one).is_file()] == []


def test_the_settings_behind_a_balancer() -> None:
    """What proxy.yaml is told of a balancer are keys that it has."""
    values = yaml.safe_load(config("yaml"))
    assert Listen(**values["listen"]).trusted_proxies
    assert Admin(**values["admin"]).host == "0.0.0.0"
