"""The row with TLS: who is measured, and that both ends check each other."""

import asyncio
import ssl
from pathlib import Path

import pytest

from bench import tls
from bench.campaign import Plan
from bench.contenders import CONTENDERS, Place, _nginx_tls, _settings
from bench.measures import MEASURES
from bench.surroundings import Address
from hubgate.proxy import preflight
from hubgate.proxy.settings import ProxySettings
from tests.fakes.keyring import Keyring
from tests.fakes.pki import Pki

LOCAL = "127.0.0.1"


def test_nginx_and_hubgate_are_measured() -> None:
    """In each round, and nobody else."""
    measures = tuple(one for one in MEASURES if one.tls)
    steps = Plan(CONTENDERS, measures, 2).steps()
    assert [(number, contender.name) for number, _, contender in steps] == [
        (0, "nginx"),
        (0, "hubgate"),
        (1, "nginx"),
        (1, "hubgate"),
    ]


async def test_the_engine_wants_a_proxy(tmp_path: Path) -> None:
    """Ours is told to be one, by what its settings name; another authority's is refused."""
    tls.make(tmp_path)
    ring = Keyring.make(tmp_path / "keys")
    address = Address("http://hub", "https://127.0.0.1:1", str(ring.proxy_private), str(ring.backend_public))
    settings = ProxySettings.model_validate(_settings(Place(tmp_path, 1, tmp_path), address, 1, 2))
    context = preflight.check(settings).upstream_tls[tls.UPSTREAM].context("engine")
    refused = Pki(tmp_path).proxy().context("engine")
    server = await asyncio.start_server(_hang_up, LOCAL, 0, ssl=tls.listener(tmp_path, "engine"))
    port = server.sockets[0].getsockname()[1]
    async with server:
        reader, writer = await asyncio.open_connection(LOCAL, port, ssl=context, server_hostname=tls.UPSTREAM)
        assert await reader.read() == b"hi"
        writer.close()
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection(LOCAL, port, ssl=refused, server_hostname=tls.UPSTREAM)
    assert str(tmp_path / "tls_proxy_proxy.pem") in _nginx_tls(tmp_path)


async def _hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"hi")
    writer.close()
