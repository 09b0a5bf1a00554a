"""`hubgate init`: what it writes fits together, is served at once, and is nobody else's."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from click.testing import CliRunner, Result

from hubgate.backend.app import build, check
from hubgate.backend.background import Background
from hubgate.backend.settings import BackendSettings
from hubgate.cli import main
from hubgate.demo.hub import DemoHub
from hubgate.proxy import app, preflight
from hubgate.proxy.settings import ProxySettings
from hubgate.runtime.config import load
from hubgate.wire.keygen import generate_proxy
from tests.backend.harness import fake_argv, free_ports
from tests.cases import each
from tests.fakes.raw import ask, request
from tests.fakes.running_proxy import ALICE, BASE, BOB, eventually

MINE = {"proxy.yaml", "backend.yaml", "admin.key", "hubgate_proxy.key", "hubgate_backend.key"}


def init(out: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["init", "--out", str(out), *arguments])


def written(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


@asynccontextmanager
async def serving(out: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[app.Proxy]:
    """Both programs with these configurations, fake engines in the place of vLLM."""
    monkeypatch.setenv("HUBGATE_LISTEN__PORT", "0")  # other ports than a proxy's usual ones
    monkeypatch.setenv("HUBGATE_ADMIN__PORT", "0")
    proxy = load(ProxySettings, out / "proxy" / "proxy.yaml")
    monkeypatch.delenv("HUBGATE_LISTEN__PORT")
    monkeypatch.delenv("HUBGATE_ADMIN__PORT")
    backend = load(BackendSettings, out / "backend" / "backend.yaml")
    checked = replace(check(backend, {}, lambda: None, lambda: "vllm"), make_argv=fake_argv)
    runner = web.AppRunner(build(backend, checked, Background(lambda: None)), shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, backend.listen.host, backend.listen.port).start()
        async with app.running(proxy, preflight.check(proxy)) as running:
            yield running
    finally:
        await runner.cleanup()


async def test_what_it_wrote_serves_a_model_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is preloaded with the service token; who was named is answered, somebody else refused."""
    url = f"http://127.0.0.1:{free_ports(102)}"
    async with DemoHub.start() as hub:
        told = init(tmp_path, "--user", "alice", "--model", BASE, "--backend-url", url, "--hub", hub.endpoint)
        assert told.exit_code == 0, told.output
        monkeypatch.setenv("HF_API_TOKEN", hub.token("service"))
        async with serving(tmp_path, monkeypatch) as proxy:

            async def post(token: str) -> Any:
                body = b'{"model":"%s","prompt":"x","max_tokens":1}' % BASE.encode()
                head = [("Authorization", f"Bearer {token}"), ("Content-Type", "application/json")]
                return await ask(proxy.port, request("POST", "/v1/completions", head, body))

            async def ready() -> bool:
                return proxy.unready() is None and (await post(ALICE)).status == 200

            await eventually(ready)
            assert (await post(ALICE)).json()["model"].startswith(f"{BASE}@")
            assert (await post(BOB)).code == "caller_not_allowed"


def test_each_machine_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    """A private key of one's own and the other's public one, for nobody else on the machine to read."""
    assert init(tmp_path, "--org", "acme").exit_code == 0
    proxy = {"proxy.yaml", "admin.key", "hubgate_proxy.key", "hubgate_backend.pub"}
    backend = {"backend.yaml", "hubgate_backend.key", "hubgate_proxy.pub"}
    assert {path.name for path in (tmp_path / "proxy").iterdir()} == proxy
    assert {path.name for path in (tmp_path / "backend").iterdir()} == backend
    for folder in (tmp_path / "proxy", tmp_path / "backend"):
        assert folder.stat().st_mode & 0o777 == 0o700
        assert {path.name for path in folder.iterdir() if path.stat().st_mode & 0o077 == 0} <= MINE
        assert all(path.stat().st_mode & 0o077 == 0 for path in folder.iterdir() if path.name in MINE)


def test_what_it_says_is_what_to_do(tmp_path: Path) -> None:
    """The commands that it prints name files that are there; another machine's folder is to be moved."""
    said = init(tmp_path, "--org", "acme", "--backend-url", "http://gpu-0:8100").output
    named = [word for word in said.split() if word.endswith(".yaml")]
    assert [Path(path).is_file() for path in named] == [True, True]
    assert "same path on the backend's machine" in said
    backend = yaml.safe_load((tmp_path / "backend" / "backend.yaml").read_text())
    assert (backend["listen"]["host"], backend["engines"]["host"]) == ("0.0.0.0", "0.0.0.0")


def test_state_can_lie_elsewhere(tmp_path: Path) -> None:
    """Where the units of config/systemd may write: audit and store each in its service's folder."""
    assert init(tmp_path / "etc", "--org", "acme", "--state", str(tmp_path / "lib")).exit_code == 0
    proxy = load(ProxySettings, tmp_path / "etc" / "proxy" / "proxy.yaml")
    backend = load(BackendSettings, tmp_path / "etc" / "backend" / "backend.yaml")
    assert proxy.audit.path == tmp_path / "lib" / "hubgate-proxy" / "audit.jsonl"
    assert backend.store.path == tmp_path / "lib" / "hubgate-backend" / "store"


@each("file", ["proxy/proxy.yaml", "proxy/admin.key", "backend/hubgate_backend.key", "backend/backend.yaml"])
def test_nothing_is_overwritten(tmp_path: Path, file: str) -> None:
    """One file that is there already, and nothing at all is written; the message names it."""
    out = tmp_path / file.replace("/", "-")
    (out / file).parent.mkdir(parents=True)
    (out / file).write_text("mine")
    found = init(out, "--org", "acme")
    assert found.exit_code == 1
    assert str(out / file) in found.output
    assert written(out) == {file: b"mine"}


def test_a_key_of_keygen_is_not_overwritten_either(tmp_path: Path) -> None:
    """Callers' pseudonyms hang on its pepper."""
    generate_proxy(tmp_path / "proxy")
    before = written(tmp_path)
    assert init(tmp_path, "--anyone").exit_code == 1
    assert written(tmp_path) == before


@each(
    ("arguments", "word"),
    [
        ((), "--user"),
        (("--org", "a b"), "callers.orgs"),
        (("--anyone", "--org", "acme"), "anyone"),
        (("--org", "acme", "--model", "no-slash"), "models.allow"),
        (("--org", "acme", "--model", 'x/y"\nz: 1'), "models.allow"),
        (("--org", "acme", "--backend-url", "http://x:y"), "--backend-url"),
        (("--org", "acme", "--backend-url", "http://gpu-0:65500"), "first_port"),
        (("--org", "acme", "--hub", "ftp://x"), "hub.endpoint"),
    ],
)
def test_what_makes_no_configuration_writes_nothing(
    tmp_path: Path, arguments: tuple[str, ...], word: str
) -> None:
    """Exit code 2, the fault by its name, and no file."""
    found = init(tmp_path, *arguments)
    assert (found.exit_code, word in found.output) == (2, True), found.output
    assert written(tmp_path) == {}
