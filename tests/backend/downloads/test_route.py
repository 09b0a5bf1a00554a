"""Downloads from behind a company's walls: by an HTTP proxy, and with a CA of its own."""

from pathlib import Path
from typing import Any

import pytest

from hubgate.demo.hub import DemoHub
from hubgate.runtime.config import ConfigError
from hubgate.runtime.hub_route import child_environment
from hubgate.runtime.shared_settings import HubRoute
from tests.backend.harness import BASE, Running, running
from tests.fakes.walls import HUB, Walls, walled

URL = f"https://{HUB}"
PIRATE = "alice/pirate-lora"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this machine has set itself is not what is tested."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def reached(tmp_path: Path, **more: Any) -> dict[str, Any]:
    return {"endpoint": URL, "ca_file": str(tmp_path / "ca.pem"), **more}


async def loads(backend: Running, walls: Walls) -> None:
    """Base and adapter are fetched by the proxy, which saw no token."""
    await backend.ready(backend.sha(BASE), backend.sha(PIRATE))
    assert f"CONNECT {HUB}:443 HTTP/1.1" in walls.asked
    assert all(line.startswith("CONNECT ") for line in walls.asked)
    assert backend.hub.token("alice").encode() not in walls.seen


async def test_downloads_go_by_the_configured_proxy(
    tmp_path: Path, hub: DemoHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the environment says of proxies; the same CA is trusted."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "*")
    async with (
        walled(hub, tmp_path) as walls,
        running(tmp_path, hub, hub=reached(tmp_path, proxy=walls.url)) as backend,
    ):
        await loads(backend, walls)


async def test_downloads_go_by_the_proxy_of_the_environment(
    tmp_path: Path, hub: DemoHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its password."""
    async with walled(hub, tmp_path, "me:canary") as walls:
        monkeypatch.setenv("HTTPS_PROXY", walls.url_with_password)
        async with running(tmp_path, hub, hub=reached(tmp_path)) as backend:
            await loads(backend, walls)


async def test_a_preloaded_model_goes_that_way_too(
    tmp_path: Path, hub: DemoHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service token is used and checked by the same workers."""
    monkeypatch.setenv("HF_TOKEN", hub.token("service"))
    async with walled(hub, tmp_path) as walls:
        route, engines = reached(tmp_path, proxy=walls.url), {"preload": [{"repo": BASE}], "on_demand": []}
        async with running(tmp_path, hub, hub=route, engines=engines) as backend:
            await backend.until_state("ready")
        assert hub.token("service").encode() not in walls.seen


async def test_without_the_ca_nothing_is_fetched(tmp_path: Path, hub: DemoHub) -> None:
    """A Hub whose certificate nobody vouches for is one that is away."""
    async with (
        walled(hub, tmp_path) as walls,
        running(tmp_path, hub, hub=reached(tmp_path, proxy=walls.url, ca_file=None)) as backend,
    ):
        assert (await backend.failed(backend.sha(BASE))).code == "hub_unavailable"


async def test_a_ca_file_that_is_none_stops_the_start(tmp_path: Path, hub: DemoHub) -> None:
    """As the proxy says it."""
    with pytest.raises(ConfigError, match=r"hub\.ca_file: .*No such file"):
        async with running(tmp_path, hub, hub=reached(tmp_path)):
            pytest.fail("it started")


def test_an_environment_is_only_changed_where_something_is_configured() -> None:
    """Without settings it is as it was; with them nothing of it leads elsewhere."""
    environ = {"https_proxy": "a", "NO_PROXY": "b", "ALL_PROXY": "c", "SSL_CERT_DIR": "d", "PATH": "e"}
    assert child_environment(environ, HubRoute()) == environ
    route = HubRoute(proxy="http://proxy:3128", ca_file=Path("/ca.pem"))
    assert child_environment(environ, route) == {
        "PATH": "e",
        "HTTPS_PROXY": "http://proxy:3128",
        "SSL_CERT_FILE": "/ca.pem",
    }
