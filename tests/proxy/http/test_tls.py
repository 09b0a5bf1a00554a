"""The public port with a certificate; what becomes of requests there is told by the relay's conformance."""

import asyncio
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from openai import DefaultAsyncHttpxClient

from proxy.http.certificate import load
from tests.fakes.answers import Stream
from tests.fakes.certificates import Authority
from tests.fakes.edge import ALICE, BASE, CHAT, Edge, eventually
from tests.fakes.engine import LOCAL
from tests.fakes.raw import RawClient, request
from tests.proxy.conftest import StartEdge
from tests.proxy.http.speech import HEALTH
from wire.keys import KeyFileError


@pytest.fixture
def authority() -> Authority:
    """Whom the callers trust."""
    return Authority()


@asynccontextmanager
async def connected(edge: Edge, trusted: ssl.SSLContext) -> AsyncIterator[tuple[RawClient, ssl.SSLObject]]:
    """A connection, and what its handshake came to."""
    reader, writer = await asyncio.open_connection(LOCAL, edge.port, ssl=trusted)
    yield RawClient(reader, writer), writer.get_extra_info("ssl_object")
    writer.close()
    await writer.wait_closed()


async def test_the_sdk_needs_only_the_url(
    start_edge: StartEdge, authority: Authority, tmp_path: Path
) -> None:
    """A whole answer and a stream, through the unmodified OpenAI SDK."""
    edge = await start_edge({"listen": {"tls": authority.issue(tmp_path)}})
    http = DefaultAsyncHttpxClient(verify=authority.trusted())
    sdk = edge.sdk(base_url=f"https://{LOCAL}:{edge.port}/v1", http_client=http)
    whole = await sdk.chat.completions.create(model=BASE, messages=[{"role": "user", "content": "hello"}])
    assert whole.choices[0].message.content == "hi"
    edge.engine.then(Stream(count=3).finish())
    stream = await sdk.chat.completions.create(model=BASE, messages=[], stream=True)
    assert len([chunk async for chunk in stream]) == 3


async def test_a_large_body_comes_whole(start_edge: StartEdge, authority: Authority, tmp_path: Path) -> None:
    """As the caller wrote it, whatever records and reads it was cut into."""
    edge = await start_edge({"listen": {"tls": authority.issue(tmp_path)}})
    content = "".join(map(str, range(500_000)))
    body = msgspec.json.encode({"model": BASE, "messages": [{"role": "user", "content": content}]})
    async with connected(edge, authority.trusted()) as (client, _):
        await client.send(request("POST", CHAT, [("Authorization", f"Bearer {ALICE}")], body))
        assert (await client.answer()).status == 200
    assert edge.engine.requests[-1].json()["messages"][0]["content"] == content


async def test_a_renewed_certificate_is_served_to_who_connects_then(
    start_edge: StartEdge, authority: Authority, tmp_path: Path
) -> None:
    """Nothing is restarted, who is connected stays so, and half of a renewal changes nothing."""
    (tmp_path / "new").mkdir()
    old, new = authority.issue(tmp_path), authority.issue(tmp_path / "new")
    edge, trusted = await start_edge({"listen": {"tls": old}}), authority.trusted()

    async def served() -> bytes | None:
        async with connected(edge, trusted) as (_, secured):
            return secured.getpeercert(binary_form=True)

    async with connected(edge, trusted) as (client, _):
        first = await served()
        shutil.copy(new["cert_file"], old["cert_file"])

        async def seen() -> bool:
            assert await served() == first
            return edge.checked.files["listen.tls"].fault is not None

        await eventually(seen)
        shutil.copy(new["key_file"], old["key_file"])

        async def renewed() -> bool:
            return await served() != first

        await eventually(renewed)
        assert edge.checked.files["listen.tls"].fault is None
        await client.send(HEALTH)
        assert (await client.answer("GET")).status == 200


async def test_http_1_1_is_what_is_agreed_on(
    start_edge: StartEdge, authority: Authority, tmp_path: Path
) -> None:
    """By ALPN (RFC 7301), with who would rather speak HTTP/2."""
    edge = await start_edge({"listen": {"tls": authority.issue(tmp_path)}})
    async with connected(edge, authority.trusted("h2", "http/1.1")) as (_, secured):
        assert secured.selected_alpn_protocol() == "http/1.1"
        assert secured.version() == "TLSv1.3"


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00\x01", HEALTH], ids=["nothing", "half", "http"])
async def test_what_is_no_handshake_ends(
    start_edge: StartEdge, authority: Authority, tmp_path: Path, sent: bytes
) -> None:
    """At once, or after `timeouts.header`; no request comes of it, and the next caller is served."""
    edge = await start_edge({"listen": {"tls": authority.issue(tmp_path)}, "timeouts": {"header": 0.15}})
    async with RawClient.connect(edge.port) as client:
        await client.send(sent)
        assert b"HTTP" not in await client.rest()
    async with connected(edge, authority.trusted()) as (client, _):
        await client.send(HEALTH)
        assert (await client.answer("GET")).status == 200
    assert await edge.metric("hubgate_requests_total") == 1


@pytest.mark.parametrize("certificate", ["tls.pem", "tls.key", "nowhere"])
@pytest.mark.parametrize("key", ["tls.key", "tls.pem", "locked.key", "other/tls.key", "nowhere"])
def test_only_a_pair_is_taken(authority: Authority, tmp_path: Path, certificate: str, key: str) -> None:
    """Neither the wrong file nor a key that asks for a password; the files are named, not quoted."""
    (tmp_path / "other").mkdir()
    authority.issue(tmp_path)
    authority.issue(tmp_path / "other")
    (tmp_path / "locked.key").write_bytes(authority.lock(tmp_path / "tls.key"))
    if (certificate, key) == ("tls.pem", "tls.key"):
        assert load(tmp_path / certificate, tmp_path / key).minimum_version >= ssl.TLSVersion.TLSv1_2
        return
    with pytest.raises(KeyFileError) as caught:
        load(tmp_path / certificate, tmp_path / key)
    assert str(tmp_path / key) in str(caught.value)
    assert "-----" not in str(caught.value)
