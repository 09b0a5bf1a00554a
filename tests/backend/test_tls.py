"""A backend with TLS: who may ask it, who may ask its engines, and how it speaks to them itself."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs

from hubgate.backend import refresh
from hubgate.demo.hub import DemoHub
from hubgate.runtime import tls
from hubgate.wire.control_api import GRANT_HEADER
from hubgate.wire.endpoints import ENSURE, HELLO
from hubgate.wire.seal import control_grant
from tests.backend.harness import BASE, Running, running
from tests.fakes.pki import Pair, Pki
from tests.fakes.running_proxy import eventually

OTHER = "demo/tiny-qwen"  # public


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    """Whose word counts on both sides."""
    return Pki(tmp_path)


@pytest.fixture
async def backend(tmp_path: Path, hub: DemoHub, pki: Pki) -> AsyncIterator[Running]:
    """One that listens with TLS, seen from a proxy with a good certificate."""
    async with running(tmp_path, hub, tls=pki.proxy(), listen={"tls": pki.backend()}) as started:
        yield started


async def test_everything_goes_with_tls(backend: Running) -> None:
    """Hello, load, adapter, a request at the engine, metrics of both: the supervisor's own client too."""
    base, adapter = backend.sha(BASE), backend.sha("demo/public-lora")
    ready = await backend.ready(base, adapter)
    status, _ = await backend.use(ready.engine, adapter)
    assert status == 200
    metrics = await backend.metrics()
    assert "vllm:num_requests_running" in metrics
    for name in ("listen.tls", "listen.tls.engines"):
        assert f'hubgate_certificate_expiry_timestamp_seconds{{certificate="{name}"}}' in metrics
    assert (await backend.hello()).engines[0].state == "ready"


async def test_an_engine_gets_files_and_no_key_of_others(backend: Running, pki: Pki) -> None:
    """Its own pair, by name: nothing that it is told names the backend's key, or is the supervisor's."""
    ready = await backend.ready(backend.sha(BASE))
    _, seen = await backend.use(ready.engine, backend.sha(BASE))
    assert str(pki.folder / "backend-gpu-0.key") not in str(seen["environ"])
    runtime = backend.settings.store.path / ".runtime"
    held = b"".join(path.read_bytes() for path in runtime.iterdir() if path.is_file())
    assert b"PRIVATE KEY" not in held
    assert b"backend-gpu-0" not in held


async def knock(port: int, context: ssl.SSLContext, name: str = "gpu-0") -> bytes:
    """What a port says to a request for a path that is nobody's; b"" if it hangs up."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
    except OSError:
        return b""
    try:
        writer.write(b"GET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return await reader.read()
    except OSError:
        return b""
    finally:
        writer.close()


CLIENTS: dict[str, Callable[[Pki], Pair]] = {
    "authority": lambda pki: Pki(pki.folder, "other").pair("proxy", "proxy", stem="wrong"),
    "expired": lambda pki: pki.pair("proxy", "proxy", stem="wrong", from_days=-9, days=1),
    "not yet valid": lambda pki: pki.pair("proxy", "proxy", stem="wrong", from_days=9),
    "engine": lambda pki: pki.pair("engine", "gpu-0", stem="wrong"),
    "backend": lambda pki: pki.pair("backend", "gpu-0", stem="wrong"),
    "supervisor": lambda pki: pki.pair("supervisor", "gpu-0", stem="wrong"),
}


@pytest.mark.parametrize("wrong", [*CLIENTS, "none"])
async def test_a_wrong_client_gets_nowhere(backend: Running, pki: Pki, wrong: str) -> None:
    """At both ports; only the control port lets in who shows nothing, and refuses what is no probe."""
    pair: Pair | None = CLIENTS[wrong](pki) if wrong in CLIENTS else None
    context = pki.client(pair)
    ready = await backend.ready(backend.sha(BASE))
    # One that a backend's own authority signed may be a supervisor: that lets nobody in at the control port.
    at_engine = await knock(ready.engine.port, context)
    assert (at_engine == b"") is (wrong != "supervisor")
    with capture_logs() as events:
        at_control = await knock(backend.settings.listen.port, context)
    if wrong == "none":
        assert at_control.startswith(b"HTTP/1.1 401")
        assert [event["reason"] for event in events if event["event"] == "control.refused"] == [
            "no_certificate"
        ]
    else:
        assert at_control == b""
        assert [event for event in events if event["event"] == "control.no_tls"]


async def test_probes_and_metrics_need_no_certificate(backend: Running, pki: Pki) -> None:
    """The kubelet and Prometheus have none."""
    async with aiohttp.ClientSession() as session:
        for path in ("/livez", "/readyz", "/metrics"):
            url = backend.url + path
            async with session.get(url, ssl=pki.client(None), server_hostname="gpu-0") as answer:
                assert answer.status == 200


async def test_a_proxys_grant_without_its_certificate(backend: Running, pki: Pki) -> None:
    """Who has a proxy's signing key and no certificate is refused: both are needed."""
    grant, _ = control_grant(backend.keyring.proxy.signing, aud="gpu-0", boot="", now=time.time())
    async with aiohttp.ClientSession() as session:
        for method, path in (("GET", HELLO), ("POST", ENSURE)):
            async with session.request(
                method,
                backend.url + path,
                headers={GRANT_HEADER: grant},
                ssl=pki.client(None),
                server_hostname="gpu-0",
            ) as answer:
                assert answer.status == 401


async def test_the_operator_needs_the_backends_key_alone(tmp_path: Path, hub: DemoHub, pki: Pki) -> None:
    """`hubgate backend refresh` believes the backend's certificate and shows none."""
    engines: dict[str, Any] = {"preload": [{"repo": OTHER}]}
    listen = {"tls": pki.backend()}
    async with running(tmp_path, hub, tls=pki.proxy(), listen=listen, engines=engines) as backend:
        await backend.until_state("ready")
        said: list[str] = []
        code = await asyncio.to_thread(refresh.run, backend.settings, None, said.append)
        assert said == [f"{backend.sha(OTHER)}: nothing to do, this is the present commit"]
        assert code == 0


async def test_a_removed_authority_is_refused_at_once(
    backend: Running, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a restart, at the control port and at an engine that runs on."""
    monkeypatch.setattr(tls, "RECHECK", 0.01)
    ready = await backend.ready(backend.sha(BASE))
    old = pki.client(pki.pair("proxy", "proxy", stem="old"))
    new = Pki(pki.folder, "other")
    assert b"401" in await knock(ready.engine.port, old)
    new.pair("backend", "gpu-0")
    new.pair("engine", "gpu-0")
    new.pair("proxy", "proxy", stem="proxy-proxy")
    pki.ca.write_bytes(new.ca.read_bytes())
    old.load_verify_locations(new.ca)

    async def refused() -> bool:
        said = [await knock(port, old) for port in (ready.engine.port, backend.settings.listen.port)]
        return said == [b"", b""]

    await eventually(refused)
    assert (await backend.hello()).engines[0].boot == ready.engine.boot
    assert (
        await backend.ready(backend.sha(BASE), backend.sha("demo/public-lora"))
    ).engine.boot == ready.engine.boot
