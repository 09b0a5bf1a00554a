"""TLS at an engine's port, with the server that vLLM has: uvicorn."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hubgate.backend.plugin import engine_tls
from hubgate.backend.plugin.engine_identity import EngineIdentity, EngineTls
from hubgate.backend.plugin.vllm_methods import VllmDiffersError
from hubgate.runtime import certificate_maker as maker
from hubgate.runtime import tls
from hubgate.wire.keys import KeyFileError
from tests.fakes.pki import Pair, Pki

uvicorn = pytest.importorskip("uvicorn")


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is replaced in uvicorn is put back."""
    monkeypatch.setattr(uvicorn.Config, "load", uvicorn.Config.load)


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    """Whose word counts on both sides."""
    return Pki(tmp_path)


@pytest.fixture
def supervisor(pki: Pki) -> Pair:
    """Its own authority, as a backend makes it at each start."""
    made = maker.self_signed("supervisor", "gpu-0", datetime.now(UTC))
    path = pki.folder / "supervisor.pem"
    path.write_bytes(made)
    return Pair(path, path)


def identity(pki: Pki, supervisor: Pair) -> EngineIdentity:
    own = pki.pair("engine", "gpu-0")
    files = EngineTls(
        authorities=str(pki.ca),
        supervisor=str(supervisor.certificate),
        certificate=str(own.certificate),
        key=str(own.key),
    )
    return EngineIdentity(id="gpu-0/0", boot="b", base="a/b@c", proxies_file="", supervisor={}, tls=files)


@asynccontextmanager
async def serving(pki: Pki, one: EngineIdentity) -> AsyncIterator[int]:
    """Uvicorn as vLLM starts it (vllm/entrypoints/launchers/launcher.py), and its port."""
    assert one.tls is not None
    seen = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.set()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"hi"})

    made = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=0,
        lifespan="off",
        log_level="error",
        timeout_keep_alive=tls.SERVER_KEEPALIVE,
        ssl_keyfile=one.tls.key,
        ssl_certfile=one.tls.certificate,
        ssl_ca_certs=one.tls.authorities,
        ssl_cert_reqs=int(ssl.CERT_REQUIRED),
    )
    made.load()
    server = uvicorn.Server(made)
    server.lifespan = made.lifespan_class(made)
    await server.startup()
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        await server.shutdown()
    del pki


async def ask(port: int, context: ssl.SSLContext) -> bytes:
    """What an engine says to this client; b"" if it hangs up."""
    try:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context, server_hostname="gpu-0"
        )
    except OSError:
        return b""
    try:
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return await reader.read()
    except OSError:
        return b""
    finally:
        writer.close()


def _supervisor(pki: Pki) -> Pair:
    path = pki.folder / "elsewhere.pem"
    path.write_bytes(maker.self_signed("supervisor", "gpu-0", datetime.now(UTC)))
    return Pair(path, path)


CLIENTS: dict[str, tuple[Callable[[Pki], Pair | None], bool]] = {
    "proxy": (lambda pki: pki.pair("proxy", "proxy"), True),
    "supervisor": (lambda pki: Pair(pki.folder / "supervisor.pem", pki.folder / "supervisor.pem"), True),
    "nobody": (lambda _: None, False),
    "engine": (lambda pki: pki.pair("engine", "gpu-0", stem="other"), False),
    "backend": (lambda pki: pki.pair("backend", "gpu-0"), False),
    "another authority": (lambda pki: Pki(pki.folder, "other").pair("proxy", "proxy"), False),
    "another supervisor": (_supervisor, False),
    "expired": (lambda pki: pki.pair("proxy", "proxy", from_days=-9, days=1), False),
}


@pytest.mark.parametrize("who", CLIENTS)
async def test_who_gets_in(pki: Pki, supervisor: Pair, who: str, caplog: pytest.LogCaptureFixture) -> None:
    """Proxies, and the supervisor of this very boot; of everybody else the log says why not."""
    one = identity(pki, supervisor)
    engine_tls.secure(one)
    make, let_in = CLIENTS[who]
    async with serving(pki, one) as port:
        said = await ask(port, pki.client(make(pki)))
    assert said.endswith(b"hi") is let_in
    assert bool([record for record in caplog.records if "refused" in record.message]) is not let_in


async def test_vllms_own_server_lets_others_in(pki: Pki, supervisor: Pair) -> None:
    """Why it is replaced: of an authority's clients it takes any, whatever else their certificate says."""
    one = identity(pki, supervisor)
    stranger = pki.client(pki.pair("supervisor", "anybody"))
    async with serving(pki, one) as port:
        assert (await ask(port, stranger)).endswith(b"hi")
        # But who has a server's certificate acts as no client, there too.
        assert await ask(port, pki.client(pki.pair("engine", "gpu-0", stem="other"))) == b""


async def test_an_authority_that_is_gone(pki: Pki, supervisor: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is believed no more from the next handshake on, and the supervisor still is."""
    monkeypatch.setattr(tls, "RECHECK", 0.0)
    one = identity(pki, supervisor)
    engine_tls.secure(one)
    proxy = pki.client(pki.pair("proxy", "proxy"))
    async with serving(pki, one) as port:
        assert await ask(port, proxy)
        other = Pki(pki.folder, "other")
        pki.ca.write_bytes(other.ca.read_bytes())
        assert not await ask(port, proxy)
        assert await ask(port, pki_client(supervisor, pki, other))


def pki_client(pair: Pair, pki: Pki, other: Pki) -> ssl.SSLContext:
    """One that believes either authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_cert_chain(pair.certificate, pair.key)
    for authority in (pki.folder / "ca" / "tls_ca.pem", other.ca):
        context.load_verify_locations(authority)
    # The engine's own certificate is still of the old one.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def test_another_uvicorn_does_not_start(pki: Pki, supervisor: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be replaced is not left as it is; nor is a pair that does not fit taken."""
    one = identity(pki, supervisor)
    monkeypatch.delattr(uvicorn.Config, "load")
    with pytest.raises(VllmDiffersError):
        engine_tls.secure(one)
    Path(one.tls.key if one.tls else "").write_bytes(pki.pair("proxy", "proxy").key.read_bytes())
    with pytest.raises(KeyFileError, match="no certificate of the key"):
        engine_tls.secure(one)


def test_without_tls_nothing_is_replaced(pki: Pki, supervisor: Pair) -> None:
    """The plain engine stays what it was."""
    before = uvicorn.Config.load
    one = identity(pki, supervisor)
    engine_tls.secure(EngineIdentity(id="", boot="", base="", proxies_file="", supervisor=one.supervisor))
    assert uvicorn.Config.load is before
