"""What the download worker takes for an answer of the Hub's: no page, nothing packed, vast or nested."""

import gzip
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx2
import pytest

from hubgate.backend.downloads.fetcher import Fetcher
from hubgate.backend.downloads.hub_answers import MAX_ANSWER, bounded
from hubgate.backend.downloads.hub_errors import BusyError, NonsenseError
from hubgate.backend.downloads.messages import Failure
from hubgate.backend.downloads.worker_pool import WorkerPool
from hubgate.backend.metrics import Metrics
from hubgate.backend.store.store import Store
from hubgate.demo.hub import DemoHub
from hubgate.wire.json_bounds import MAX_CONTAINERS, MAX_DEPTH
from hubgate.wire.repo import RepoRef
from hubgate.wire.secret import Secret
from tests.backend.downloads.test_fetcher import downloads
from tests.cases import each
from tests.fakes.answers import raw, whole
from tests.fakes.engine import LOCAL, RawEngine

API = "http://hub/api/models/a/b/revision/main"
FILE = "http://hub/a/b/resolve/main/config.json"
SHA = b"a" * 40
HTML = {"Content-Type": "text/html; charset=utf-8"}
PAGE = b"<!doctype html><title>We will be back soon</title>"


class Stream(httpx2.SyncByteStream):
    """Counts what was read of a body that never ends."""

    def __init__(self, piece: bytes) -> None:
        self.read = 0
        self.closed = False
        self._piece = piece

    def __iter__(self) -> Iterator[bytes]:
        while True:
            self.read += len(self._piece)
            yield self._piece

    def close(self) -> None:
        self.closed = True


def _get(url: str, response: httpx2.Response) -> httpx2.Response:
    transport = httpx2.MockTransport(lambda _: response)
    with closing(httpx2.Client(transport=transport, event_hooks={"response": [bounded]})) as client:
        return client.get(url)


@each("url", [API, FILE])
@each(
    ("status", "headers", "content"),
    [
        (200, HTML, PAGE),
        (200, {"Content-Type": "Application/XHTML+xml"}, b""),
        (403, HTML, PAGE),
        (404, HTML, PAGE),
        (200, {"Content-Encoding": "gzip"}, gzip.compress(b"{}")),
        (200, {"Content-Encoding": "br"}, b"x"),
    ],
)
def test_what_is_not_the_hubs(url: str, status: int, headers: dict[str, str], content: bytes) -> None:
    """A page for a browser, whatever its status; and what was packed though that was not asked for."""
    made = httpx2.Response(status, headers=headers, stream=httpx2.ByteStream(content))
    with pytest.raises(NonsenseError):
        _get(url, made)


@each(
    ("url", "status", "headers"),
    [
        (API, 200, {"Content-Type": "application/json"}),
        (API, 404, {**HTML, "X-Error-Code": "RepoNotFound"}),
        (FILE, 200, {"Content-Type": "text/plain"}),
        (FILE, 200, {}),
        (FILE, 307, HTML),
        (API, 200, {"Content-Encoding": "identity"}),
    ],
)
def test_what_is(url: str, status: int, headers: dict[str, str]) -> None:
    """Also an error that it words, and a redirect, below which servers put a page."""
    made = httpx2.Response(status, headers=headers, content=b"{}")
    assert _get(url, made).content == b"{}"


@each("status", [429, 500, 503])
def test_a_failure_is_one_whatever_it_looks_like(status: int) -> None:
    """With the time to come again that it tells."""
    with pytest.raises(BusyError) as caught:
        _get(API, httpx2.Response(status, headers={**HTML, "Retry-After": "7"}, content=PAGE))
    assert caught.value.headers["Retry-After"] == "7"


@each("body", [b"[" * (MAX_DEPTH + 1), b"[" * 990, b"[" + b"[]," * MAX_CONTAINERS])
def test_a_nested_answer_is_not_parsed(body: bytes) -> None:
    """A file may be what it likes: it is not parsed in here."""
    with pytest.raises(NonsenseError):
        _get(API, httpx2.Response(200, content=body))
    assert _get(FILE, httpx2.Response(200, content=body)).content == body


def test_an_endless_answer_is_left_early() -> None:
    """At the limit, and closed."""
    stream = Stream(b" " * 65536)
    with pytest.raises(NonsenseError):
        _get(API, httpx2.Response(200, stream=stream))
    assert stream.read == MAX_ANSWER + 65536
    assert stream.closed
    whole_one = httpx2.Response(200, content=b" " * MAX_ANSWER)
    assert len(_get(API, whole_one).content) == MAX_ANSWER


@pytest.mark.parametrize(
    "body",
    [
        b'{"id":"a/b","sha":"%s","siblings":%s%s}' % (SHA, b"[" * 990, b"]" * 990),
        b'{"id":"a/b","sha":"%s","siblings":[{"rfilename":"x","size":"1"}]}' % SHA,
        b'{"id":"a/b","sha":"%s","siblings":[{"rfilename":"x","size":-1}]}' % SHA,
        b'{"id":"a/b","sha":"%s","siblings":[{"rfilename":"\\ud800"}]}' % SHA,
        b'{"id":"a/b","sha":"%s","siblings":[{"rfilename":"x","size":%s}]}' % (SHA, b"1" * 5_000),
        b'{"id":"a/b","sha":["%s"],"siblings":{}}' % SHA,
        b"[]",
        b"no JSON",
    ],
)
async def test_a_listing_that_makes_no_sense_is_an_outage(tmp_path: Path, body: bytes) -> None:
    """By the real client, in a worker: a reason, and a time to come again, whatever it chokes on."""
    async with RawEngine.start() as rogue:
        rogue.always(raw(whole(200, body)))
        url = f"http://{LOCAL}:{rogue.port}"
        workers = WorkerPool(os.environ, url)
        fetcher = Fetcher(Store(tmp_path, 10**8, lambda: 0.0), workers, Metrics(), url)
        try:
            said = await fetcher.resolve(RepoRef.parse("a/b"), Secret("hf_demo_alice"))
        finally:
            await workers.close()
    assert isinstance(said, Failure), said
    assert said.code == "hub_unavailable"


async def test_a_page_in_the_place_of_the_hub_is_an_outage(tmp_path: Path, hub: DemoHub) -> None:
    """From the first question on, or in the middle of it: and when it is gone, all is well."""
    async with downloads(tmp_path, hub) as made:
        hub.state.set_down("page")
        failed = await made.failure()
        assert failed.code == "hub_unavailable"
        assert failed.retry_after
        hub.state.set_down("page", paths="*.safetensors", times=1)
        assert not isinstance(await made.join(), Failure)
        assert made.leftovers() == []
