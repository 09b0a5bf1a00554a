"""Random bytes and mutated requests: nothing reaches the engine but what the grammar takes for a request."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hubgate.proxy.endpoints import ENDPOINTS
from tests.fakes.raw import RawClient
from tests.fakes.running_proxy import CHAT, Edge
from tests.proxy.http.grammar import requests
from tests.proxy.http.speech import BODY, HEALTH, HOST, chunked, head, post

pytestmark = pytest.mark.asyncio(loop_scope="module")

FORWARDED = {path.encode() for path, endpoint in ENDPOINTS.items() if endpoint.kind == "inference"}
SEEDS = [post(), chunked(), post() + post(), chunked() + HEALTH + post(), post(b"Expect: 100-continue")]
# Ends whatever head stands open, and asks to close: twice, should the first one be taken for a body.
LAST = b"\r\n\r\n" + head(b"GET /health HTTP/1.1", HOST, b"Connection: close") * 2
# What has a meaning somewhere in a request, and what is near to it.
WORDS = [
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b"\x00",
        b"\x0b",
        b":",
        b",",
        b";",
        b"#",
        b"?",
        b"\xff",
        b"\r\n\r\n",
    ),
    *(b"HTTP/1.0", b"HTTP/2.0", b"GET ", b"POST ", b"/../", b"%2f", b"http://x/", CHAT.encode()),
    *(b"Content-Length: 0\r\n", b"Content-Length: 41\r\n", b"Transfer-Encoding: chunked\r\n"),
    *(b"Transfer-Encoding: x\r\n", b"Host: x\r\n", b"Connection: close\r\n", b"Upgrade: websocket\r\n"),
    *(b"X: \xff\r\n", b"chunked", b"0\r\n\r\n", b"-1", b"ffffffff", BODY),
]

edits = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 40), st.sampled_from(WORDS) | st.binary(max_size=3)),
    min_size=1,
    max_size=4,
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A good request of which a few places were cut out, overwritten or added to."""
    data = draw(st.sampled_from(SEEDS))
    for where, cut, put in draw(edits):
        at = int(where * len(data))
        data = data[:at] + put + data[at + cut * (cut < 20) :]
    return data


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hasty(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    """A proxy that soon gives up on what does not go on."""
    quick = {
        "timeouts": {"header": 0.1, "body_idle": 0.1},
        "limits": {"requests_per_minute": 1_000_000, "concurrent_requests": 1_000},
    }
    async with Edge.start(tmp_path_factory.mktemp("edge"), quick) as running:
        yield running


# Ten at a time, so that those that are waited for are waited for together.
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=200) | mutated() | mutated() | mutated(), min_size=10, max_size=10))
@example([*SEEDS, b"", b"\x00", BODY, HEALTH, HEALTH + post()])
async def test_only_requests_reach_the_engine(hasty: Edge, sent: list[bytes]) -> None:
    """Whatever is sent comes to an end, and the engine gets no request that the grammar does not find."""
    hasty.engine.requests.clear()
    hasty.engine.wire.clear()
    await asyncio.gather(*(_ended(hasty.port, data + LAST) for data in sent))
    good = [found for data in sent for found in requests(data + LAST)]
    allowed = Counter(found.path for found in good if found.method == b"POST" and found.path in FORWARDED)
    reached = Counter(found.target.encode() for found in hasty.engine.requests)
    assert reached <= allowed
    assert len(hasty.engine.wire) == sum(len(found.raw) for found in hasty.engine.requests)
    assert all(found.raw in hasty.engine.wire for found in hasty.engine.requests)


async def _ended(port: int, data: bytes) -> None:
    """Send it, and wait until the server closes, as it has to sooner or later."""
    async with RawClient.connect(port) as client:
        await client.send(data)
        await client.rest()


@given(data=mutated())
async def test_the_grammar_finds_what_was_there(data: bytes) -> None:
    """The oracle itself: it finds the seeds whole, and in a mutation no body that is not there."""
    assert [len(requests(seed)) for seed in SEEDS] == [1, 1, 2, 3, 1]
    assert all(found.body == BODY for seed in SEEDS for found in requests(seed) if found.method == b"POST")
    assert all(found.target in data for found in requests(data))
