"""`hubgate backend store`: on a store of its own, and on that of a backend that runs."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml
from click.testing import Result

from hubgate.backend.repo_files import RepoFile
from hubgate.backend.store.layout import STAGING
from hubgate.backend.store.store import Store
from hubgate.demo.hub import DemoHub
from hubgate.wire.repo import RepoRef
from tests.backend.harness import BASE, running
from tests.cli.test_cli import run
from tests.fakes.clock import Clock
from tests.fakes.keyring import Keyring

PUBLIC = "demo/public-lora"


def _configured(folder: Path, max_bytes: int = 1000) -> Path:
    ring = Keyring.make(folder / "keys")
    settings = {
        "name": "gpu-0",
        "seal": {"key_file": str(ring.backend_private), "proxies_file": str(ring.proxy_public)},
        "store": {"path": str(folder / "store"), "max_bytes": max_bytes, "max_model_bytes": max_bytes},
        "engines": {"on_demand": ["demo/*"]},
    }
    path = folder / "backend.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


def _ref(name: str) -> RepoRef:
    return RepoRef.parse(f"demo/{name}@{'a' * 40}")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A store of three repos of 300 bytes, `a` used first, `c` an adapter; no backend runs."""
    clock = Clock()
    store = Store(tmp_path / "store", 1000, clock)
    store.open()
    for name in "abc":
        content = bytes(300)
        with store.staging() as staging:
            digest = hashlib.sha256(content).hexdigest()
            staging.files = (RepoFile(name="weights.safetensors", size=300, sha256=digest),)
            (staging.path / "content").mkdir()
            (staging.path / "content" / "weights.safetensors").write_bytes(content)
            if name == "c":
                (staging.path / "content" / "adapter_config.json").touch()
            store.publish(staging, staging.path / "content", _ref(name))
        clock.advance(60)
    store.close()
    return _configured(tmp_path)


def _store(command: str, *arguments: str | Path, config: Path) -> Result:
    return run("backend", "store", command, *arguments, "--config", config)


def _names(config: Path) -> list[str]:
    return sorted(path.parent.name for path in config.parent.glob("store/[!.]*/*/*"))


def _damage(config: Path, name: str) -> None:
    path = config.parent / "store" / "demo" / name / ("a" * 40) / "weights.safetensors"
    path.chmod(0o600)
    path.write_bytes(b"x" + bytes(299))


def test_ls_shows_what_lies_there(config: Path) -> None:
    """Name and commit to paste, kind, size, last use, pins; the last used first; and the sum."""
    assert _store("pin", str(_ref("a")), config=config).exit_code == 0
    found = _store("ls", config=config)
    assert found.exit_code == 0
    rows = [line for line in found.output.splitlines() if "demo/" in line]
    assert [str(_ref(name)) in row for name, row in zip("cba", rows, strict=True)] == [True] * 3
    assert "adapter" in rows[0]
    assert ["300 B" in row for row in rows] == [True] * 3
    assert ["yes" in row for row in rows] == [False, False, True]
    assert "2026-" in rows[0]
    assert "3 repos, 900 B of 1.0 kB" in found.output


def test_gc_goes_down_to_the_quota(config: Path) -> None:
    """What was used longest ago goes first; what is pinned stays."""
    assert _store("gc", config=config).output.startswith("freed 0 B")
    _store("pin", str(_ref("a")), config=config)
    _configured(config.parent, max_bytes=650)
    found = _store("gc", config=config)
    assert found.exit_code == 0
    assert f"deleted {_ref('b')}  300 B" in found.output
    assert "freed 300 B; 600 B of 650 B are taken" in found.output
    assert _names(config) == ["a", "c"]


def test_gc_of_all_that_is_unused(config: Path) -> None:
    """The disk is handed back but for what is pinned; nothing half deleted is left."""
    _store("pin", str(_ref("b")), config=config)
    assert _store("gc", "--all-unused", config=config).exit_code == 0
    assert _names(config) == ["b"]
    assert list((config.parent / "store" / STAGING).iterdir()) == []
    _store("unpin", str(_ref("b")), config=config)
    _store("gc", "--all-unused", config=config)
    assert _names(config) == []


def test_verify_finds_damage_and_says_what_to_do(config: Path) -> None:
    """One changed byte: exit code 1, the file's name, and the way out, which works."""
    assert _store("verify", config=config).output.endswith("3 repos are whole\n")
    _damage(config, "b")
    found = _store("verify", config=config)
    assert found.exit_code == 1
    assert f"{_ref('b')}: weights.safetensors is damaged" in found.output.replace("\n", "")
    assert "--remove" in found.output
    assert _store("verify", "--remove", config=config).exit_code == 0
    assert _names(config) == ["a", "c"]
    assert _store("verify", config=config).exit_code == 0


@pytest.mark.parametrize("how", ["missing", "link"])
def test_verify_sees_what_is_gone_or_leads_elsewhere(config: Path, how: str) -> None:
    """A file that is not there, or a link to one that is whole."""
    path = config.parent / "store" / "demo" / "b" / ("a" * 40) / "weights.safetensors"
    path.rename(config.parent / "elsewhere")
    if how == "link":
        path.symlink_to(config.parent / "elsewhere")
    assert _store("verify", config=config).exit_code == 1


def test_what_was_never_recorded_is_said(config: Path) -> None:
    """It is neither called whole nor damaged."""
    (config.parent / "store" / "demo" / "other" / ("b" * 40)).mkdir(parents=True)
    found = _store("verify", config=config)
    assert found.exit_code == 0
    assert "cannot be checked" in found.output
    assert "3 repos are whole" in found.output


@pytest.mark.parametrize("name", ["demo/a", "demo/a@main", "a", "../x@" + "a" * 40])
def test_only_commits_are_pinned(config: Path, name: str) -> None:
    """A branch means other bytes tomorrow; wrong usage is exit code 2."""
    assert _store("pin", name, config=config).exit_code == 2


def test_what_is_not_there_is_not_pinned(config: Path) -> None:
    """A typing error must not look like success."""
    found = _store("pin", str(_ref("nowhere")), config=config)
    assert found.exit_code == 1
    assert "is not in the store" in found.output


def test_a_store_that_is_not_there(tmp_path: Path) -> None:
    """Said in words, and none is made."""
    found = _store("ls", config=_configured(tmp_path))
    assert found.exit_code == 1
    assert "there is no store" in found.output
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("command", [(), ("ls",), ("gc",), ("verify",), ("pin",), ("unpin",)])
def test_the_help_helps(command: tuple[str, ...]) -> None:
    """Each command says what it does, and what configuration it reads."""
    found = run("backend", "store", *command, "--help")
    assert found.exit_code == 0
    assert ("--config" if command else "gc") in found.output


def test_the_backend_itself_still_needs_its_configuration() -> None:
    """`hubgate backend` alone is wrong usage."""
    assert run("backend").exit_code == 2


@pytest.fixture
async def hub() -> AsyncIterator[DemoHub]:
    async with DemoHub.start() as started:
        yield started


async def test_beside_a_running_backend(tmp_path: Path, hub: DemoHub) -> None:
    """What it has loaded is shown and stays, the rest goes, and what went is fetched anew."""
    async with running(tmp_path, hub) as backend:
        config = _configured(tmp_path, max_bytes=10**8)
        base, adapter = backend.sha(BASE), backend.sha(PUBLIC)
        await backend.ready(base, adapter)
        found = await asyncio.to_thread(_store, "ls", config=config)
        in_use = {line.split()[1]: line.count("yes") for line in found.output.splitlines() if "@" in line}
        assert in_use == {base: 1, adapter: 1}
        assert (await asyncio.to_thread(_store, "verify", config=config)).exit_code == 0
        await asyncio.to_thread(_store, "gc", "--all-unused", config=config)
        assert _names(config) == ["public-lora", "tiny-llama"]
        assert (await backend.use((await backend.ready(base, adapter)).engine, adapter))[0] == 200
    await asyncio.to_thread(_store, "gc", "--all-unused", config=config)
    assert _names(config) == []
    async with running(tmp_path, hub) as backend:
        assert len((await backend.ready(base, adapter)).downloads) == 2
