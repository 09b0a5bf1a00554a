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

from hubgate.proxy.http.tls import Certificate
from hubgate.runtime import watch
from hubgate.wire.keys import KeyFileError
from tests.fakes.answers import Stream
from tests.fakes.certificates import Authority
from tests.fakes.engine import LOCAL
from tests.fakes.raw import RawClient, request
from tests.fakes.running_proxy import ALICE, BASE, CHAT, Edge, eventually
from tests.proxy.conftest import StartEdge
from tests.proxy.http.speech import HEALTH


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


@pytest.mark.parametrize("order", [("cert_file", "key_file"), ("key_file", "cert_file")])
async def test_a_renewed_certificate_is_served_to_who_connects_then(
    start_edge: StartEdge,
    authority: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    order: tuple[str, str],
) -> None:
    """Nothing is restarted, who is connected stays so, and half of a renewal is told and changes nothing."""
    monkeypatch.setattr(watch, "EVERY", 0.02)
    (tmp_path / "new").mkdir()
    old, new = authority.issue(tmp_path), authority.issue(tmp_path / "new")
    edge, trusted = await start_edge({"listen": {"tls": old}}), authority.trusted()

    async def served() -> bytes | None:
        async with connected(edge, trusted) as (_, secured):
            return secured.getpeercert(binary_form=True)

    async with connected(edge, trusted) as (client, _):
        first = await served()
        shutil.copy(new[order[0]], old[order[0]])

        async def seen() -> bool:
            assert await served() == first
            return edge.checked.files["listen.tls"].fault is not None

        await eventually(seen)
        shutil.copy(new[order[1]], old[order[1]])

        async def renewed() -> bool:
            return await served() != first

        await eventually(renewed)
        assert edge.checked.files["listen.tls"].fault is None
        await client.send(HEALTH)
        assert (await client.answer("GET")).status == 200


@pytest.mark.parametrize("gone", ["tls.pem", "tls.key"])
def test_a_file_that_is_gone_is_a_fault(authority: Authority, tmp_path: Path, gone: str) -> None:
    """Of the certificate and of the key alike, until it is back; what was read before is still served."""
    authority.issue(tmp_path)
    certificate = Certificate(tmp_path / "tls.pem", tmp_path / "tls.key")
    (tmp_path / gone).rename(tmp_path / "aside")
    for _ in range(2):
        assert certificate.current() is certificate.context
        assert certificate.fault is not None
        assert gone in certificate.fault
    (tmp_path / "aside").rename(tmp_path / gone)
    certificate.current()
    assert certificate.fault is None


async def test_any_name_may_be_asked_for(start_edge: StartEdge, authority: Authority, tmp_path: Path) -> None:
    """The certificate is one for all; a name of odd bytes (SNI) is answered, and nothing of it is logged."""
    edge = await start_edge({"listen": {"tls": authority.issue(tmp_path)}})
    said, name = ssl.MemoryBIO(), b"some.name.example"
    with pytest.raises(ssl.SSLWantReadError):
        authority.trusted().wrap_bio(ssl.MemoryBIO(), said, server_hostname=name.decode()).do_handshake()
    hello = said.read()
    assert hello.count(name) == 1
    async with RawClient.connect(edge.port) as client:
        await client.send(hello.replace(name, b"\xff" * len(name)))
        assert (await client.read(1)) == b"\x16"  # a handshake goes on (RFC 8446, section 5.1)


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
        taken = Certificate(tmp_path / certificate, tmp_path / key)
        assert taken.context.minimum_version >= ssl.TLSVersion.TLSv1_2
        return
    with pytest.raises(KeyFileError) as caught:
        Certificate(tmp_path / certificate, tmp_path / key)
    assert str(tmp_path / (certificate if certificate == "nowhere" else key)) in str(caught.value)
    assert "-----" not in str(caught.value)
