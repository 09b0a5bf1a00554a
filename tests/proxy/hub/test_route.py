"""The Hub from behind a company's walls: by an HTTP proxy, and with a CA of its own."""

from pathlib import Path
from typing import Any

import pytest

from hubgate.demo.hub import DemoHub
from hubgate.runtime.config import ConfigError
from tests.fakes.running_proxy import ALICE, BASE, PRIVATE, Edge
from tests.fakes.walls import HUB, Walls, walled
from tests.proxy.conftest import StartEdge

URL = f"https://{HUB}"
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this machine has set itself is not what is tested."""
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def hub(tmp_path: Path, **more: Any) -> dict[str, Any]:
    return {"hub": {"endpoint": URL, "ca_file": str(tmp_path / "ca.pem"), "timeout": 5, **more}}


async def served(edge: Edge, walls: Walls) -> None:
    """Callers are known and served, and the proxy on the way saw names and nothing else."""
    assert (await edge.chat(BASE, ALICE)).status == 200
    assert walls.asked
    assert set(walls.asked) == {f"CONNECT {HUB}:443 HTTP/1.1"}
    assert ALICE.encode() not in walls.seen


async def test_the_hub_is_asked_by_the_configured_proxy(start_edge: StartEdge, tmp_path: Path) -> None:
    """It is asked to CONNECT, whatever the environment says of proxies."""
    async with DemoHub.start() as demo, walled(demo, tmp_path) as walls:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
            patch.setenv("NO_PROXY", "*")
            edge = await start_edge(hub(tmp_path, proxy=walls.url))
        await served(edge, walls)


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
async def test_the_hub_is_asked_by_the_proxy_of_the_environment(
    start_edge: StartEdge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """With its password, as curl and huggingface_hub take it."""
    async with DemoHub.start() as demo, walled(demo, tmp_path, "me:canary") as walls:
        monkeypatch.setenv(name, walls.url_with_password)
        await served(await start_edge(hub(tmp_path)), walls)


@pytest.mark.parametrize("names", [HUB, ".test", "*", f"other.example,{HUB}"])
async def test_no_proxy_is_obeyed(
    start_edge: StartEdge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: str
) -> None:
    """Then the Hub is asked directly, which does not work here: nobody knows its name."""
    async with DemoHub.start() as demo, walled(demo, tmp_path) as walls:
        monkeypatch.setenv("HTTPS_PROXY", walls.url)
        monkeypatch.setenv("NO_PROXY", names)
        edge = await start_edge(hub(tmp_path))
        assert (await edge.chat(BASE, ALICE)).code == "hub_unavailable"
        assert walls.asked == []


async def test_a_hub_without_tls_is_never_asked_by_a_proxy(
    start_edge: StartEdge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would see tokens: the environment's is passed by, and a configured one refused."""
    async with DemoHub.start() as demo, walled(demo, tmp_path) as walls:
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, walls.url)
        edge = await start_edge()
        assert (await edge.chat(PRIVATE, ALICE)).status == 200
        assert walls.asked == []
        with pytest.raises(ConfigError, match=r"hub\.proxy: would be shown tokens"):
            async with Edge.start(tmp_path / "second", {"hub": {"proxy": walls.url}}):
                pytest.fail("it started")


async def test_a_proxy_that_refuses_is_a_hub_that_is_away(start_edge: StartEdge, tmp_path: Path) -> None:
    """Never "allowed", and never the caller's fault."""
    async with DemoHub.start() as demo, walled(demo, tmp_path, "me:canary") as walls:
        edge = await start_edge(hub(tmp_path, proxy=walls.url))
        assert (await edge.chat(BASE, ALICE)).code == "hub_unavailable"
        assert walls.asked


async def test_only_the_configured_ca_is_trusted(start_edge: StartEdge, tmp_path: Path) -> None:
    """Neither without it, nor another one."""
    (tmp_path / "other").mkdir()
    async with DemoHub.start() as demo, walled(demo, tmp_path) as walls:
        async with walled(demo, tmp_path / "other"):
            for ca in (None, str(tmp_path / "other" / "ca.pem")):
                edge = await start_edge(hub(tmp_path, proxy=walls.url, ca_file=ca))
                assert (await edge.chat(BASE, ALICE)).code == "hub_unavailable"
                await edge.stop()
        assert not list(demo.log)


async def test_what_cannot_be_is_said_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything at once, and no password is repeated."""
    (tmp_path / "ca.pem").write_text("no certificate")
    monkeypatch.setenv("HTTPS_PROXY", "socks5://me:canary@127.0.0.1:9")
    with pytest.raises(ConfigError) as caught:
        async with Edge.start(tmp_path, hub(tmp_path)):
            pytest.fail("it started")
    said = "\n".join(caught.value.faults)
    assert "hub.ca_file: " in said
    assert "holds no certificates in PEM" in said
    assert "HTTPS_PROXY: must be http://host:port" in said
    assert "canary" not in said
    for proxy in (
        "https://proxy:1",
        "socks5://proxy:1",
        "http://me:canary@proxy:1",
        "proxy:1",
        "http://proxy:1/x",
    ):
        with pytest.raises(ConfigError, match=r"hub\.proxy: must be http://host:port") as caught:
            async with Edge.start(tmp_path, {"hub": {"proxy": proxy}}):
                pytest.fail("it started")
        assert "canary" not in str(caught.value)
