"""The files origin: redirects, signatures, ranges, and what the client does with them."""

import hashlib
from collections.abc import Callable

import aiohttp
import pytest
from yarl import URL

from hubgate.demo.hub import DemoHub
from tests.demo.conftest import Client, Clock

Clients = Callable[[str | None], Client]
PATH = "/demo/public-lora/resolve/main/adapter_model.safetensors"


async def location(hub: DemoHub, http: aiohttp.ClientSession) -> URL:
    """Ask where a large file is."""
    async with http.get(hub.endpoint + PATH, allow_redirects=False) as answer:
        assert answer.status == 302
        return URL(answer.headers["Location"])


async def test_large_file_is_on_the_other_origin(hub: DemoHub, http: aiohttp.ClientSession) -> None:
    """A large file's answer is a redirect that tells its sha256 and size, and leads to its bytes."""
    async with http.head(hub.endpoint + PATH, allow_redirects=False) as answer:
        assert answer.status == 302
        headers = answer.headers
        assert headers["X-Repo-Commit"] == hub.state.sha("demo/public-lora")
    url = await location(hub, http)
    assert str(url.origin()) == hub.files_endpoint
    async with http.get(url) as answer:
        body = await answer.read()
    assert headers["X-Linked-Etag"] == f'"{hashlib.sha256(body).hexdigest()}"'
    assert headers["X-Linked-Size"] == str(len(body))


@pytest.mark.parametrize(
    ("asked", "status", "part"),
    [
        ("bytes=0-9", 206, slice(0, 10)),
        ("bytes=10-", 206, slice(10, None)),
        ("bytes=-5", 206, slice(-5, None)),
        ("bytes=0-999999999", 206, slice(0, None)),
        ("bytes=999999999-", 416, slice(0, 0)),
        ("pages=1-2", 200, slice(0, None)),
    ],
)
async def test_ranges(
    asked: str, status: int, part: slice, hub: DemoHub, http: aiohttp.ClientSession
) -> None:
    """One range of bytes is served as RFC 9110 section 14 has it; what is no byte range is ignored."""
    url = await location(hub, http)
    async with http.get(url) as answer:
        whole = await answer.read()
    async with http.get(url, headers={"Range": asked}) as answer:
        assert answer.status == status
        assert await answer.read() == whole[part]
        if status == 206:
            start, stop, _ = part.indices(len(whole))
            assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(whole)}"


async def test_address_is_signed_and_expires(hub: DemoHub, clock: Clock, http: aiohttp.ClientSession) -> None:
    """An address works only as it was made, for an hour, and for whoever has it, even after a revocation."""
    url = await location(hub, http)
    later = str(int(url.query["expires"]) + 1)
    hub.state.set_private("demo/public-lora", private=True)
    hub.state.revoke(user="bob")
    wrong = [
        url.update_query(expires=later),
        url.update_query(signature="0" * 64),
        url.update_query(filename="other.bin"),
        url.with_query(None),
        url.with_path("/" + "0" * 64).with_query(url.query),
    ]
    for address, status in [(url, 200), *((bad, 403) for bad in wrong)]:
        async with http.get(address) as answer:
            assert answer.status == status
    clock.now += hub.state.catalog.signed_url_lifetime
    async with http.get(url) as answer:
        assert answer.status == 403


async def test_client_drops_its_token_on_the_other_origin(hub: DemoHub, client: Clients) -> None:
    """The client sends its token to the Hub and none to the files origin."""
    await client("bob").download("demo/tiny-llama", "model.safetensors")
    assert [(entry.origin, entry.has_authorization) for entry in hub.log] == [("hub", True), ("files", False)]
    assert [entry.user for entry in hub.log] == ["bob", None]


async def test_client_resumes_with_a_range(hub: DemoHub, client: Clients) -> None:
    """A download cut in the middle is resumed from there, and what comes out is whole."""
    # The client keeps what it has in steps of 10 MiB, so only a larger file is ever resumed.
    step = 10 * 2**20
    body = bytes(range(256)) * (step // 256 + 4096)
    hub.state.add_repo("bob/large", {"large.bin": body})
    hub.state.set_down("cut", origin="files", after_bytes=step + 1000, times=1)
    path = await client("bob").download("bob/large", "large.bin")
    assert path.read_bytes() == body
    files = [entry for entry in hub.log if entry.origin == "files"]
    assert [(entry.status, entry.bytes) for entry in files] == [(200, step + 1000), (206, len(body) - step)]


async def test_filename_in_an_address_cannot_break_headers(hub: DemoHub, client: Clients) -> None:
    """An odd file name is downloaded under the same name."""
    name = 'odd "name" é.bin'
    hub.state.add_repo("bob/odd", {name: b"x"})
    assert (await client("bob").download("bob/odd", name)).name == name
