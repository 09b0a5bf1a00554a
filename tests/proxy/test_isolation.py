"""One caller's private model does not exist for the next, whatever is loaded."""

import asyncio
import re

import pytest

from tests.fakes.answers import Stream
from tests.fakes.raw import RawAnswer
from tests.fakes.running_proxy import ALICE, BASE, BOB, CHAT, MISSING, PRIVATE, Edge
from tests.proxy.conftest import StartEdge

DATE = re.compile(rb"Date: [^\r]*\r\n")


def plain(answer: RawAnswer, name: str) -> bytes:
    """Every byte of an answer, but for its date and the name that was asked for."""
    assert answer.complete
    return DATE.sub(b"", answer.raw).replace(name.encode(), b"{name}")


async def asks(edge: Edge, token: str, name: str) -> RawAnswer:
    """Ask for a completion under a fixed request id."""
    body = b'{"model": "%s", "messages": []}' % name.encode()
    return await edge.ask("POST", CHAT, token, [("X-Request-Id", "the-same-id")], body)


async def looks(edge: Edge, token: str, name: str) -> RawAnswer:
    """Look a model up under a fixed request id."""
    return await edge.ask("GET", f"/v1/models/{name}", token, [("X-Request-Id", "the-same-id")])


@pytest.mark.parametrize("suffix", ["", "@main", "@" + "a" * 40])
@pytest.mark.parametrize("ask", [asks, looks])
@pytest.mark.parametrize("loaded", [False, True])
async def test_private_is_byte_identical_to_missing(
    edge: Edge, ask: object, suffix: str, *, loaded: bool
) -> None:
    """Bob's answers and the questions to the Hub are the same for both, also after alice loaded hers."""
    if loaded:
        assert (await edge.chat(PRIVATE, ALICE)).status == 200
    await edge.chat(BASE, BOB)  # bob is known already
    requests = len(edge.engine.requests)
    seen = []
    for name in (PRIVATE, MISSING):
        edge.hub.log.clear()
        answer = await ask(edge, BOB, name + suffix)  # type: ignore[operator]
        assert (answer.status, answer.code) == (404, "model_not_found")
        calls = [path.replace(name, "{name}") for path in edge.hub_calls()]
        seen.append((plain(answer, name), calls))
    assert seen[0] == seen[1]
    assert len(edge.engine.requests) == requests
    assert len(edge.backend.asked) == int(loaded)


async def test_the_same_questions_in_the_same_order_for_the_unknown(edge: Edge) -> None:
    """A caller who was never seen asks the Hub the same about both."""
    await asks(edge, BOB, PRIVATE)
    private = [path.replace(PRIVATE, "{name}") for path in edge.hub_calls()]
    edge.hub.log.clear()
    await asks(edge, "hf_demo_pending", MISSING)
    assert private == [path.replace(MISSING, "{name}") for path in edge.hub_calls()]
    assert private == ["GET /api/whoami-v2", "GET /api/models/{name}/auth-check"]


async def test_refusals_carry_no_times(edge: Edge) -> None:
    """`Server-Timing` could tell a private repo from a missing one; refusals have none."""
    assert (await asks(edge, BOB, PRIVATE)).header("Server-Timing") is None
    assert (await asks(edge, ALICE, PRIVATE)).header("Server-Timing") is not None


async def test_a_warm_adapter_is_used_by_its_owner_alone(edge: Edge) -> None:
    """While alice streams from her adapter, bob is refused each time, and she is not disturbed."""
    stream = Stream(count=20)
    edge.engine.then(stream)
    body = {"model": PRIVATE, "messages": [], "stream": True}
    alice = asyncio.create_task(edge.post(CHAT, body))
    await edge.engine.received(1)
    for _ in range(10):
        stream.step(2)
        assert (await asks(edge, BOB, PRIVATE)).status == 404
        assert (await asks(edge, BOB, edge.at(PRIVATE))).status == 404
    stream.finish()
    assert (await alice).complete
    assert len(edge.engine.requests) == 1


async def test_many_interleavings(start_edge: StartEdge) -> None:
    """However alice's and bob's requests mix, she is always served and he never is."""
    edge = await start_edge({"limits": {"cold_loads_per_hour": 100}})
    tokens = [ALICE, BOB] * 60
    answers = await asyncio.gather(*[asks(edge, token, PRIVATE) for token in tokens])
    assert [answer.status for answer in answers] == [200, 404] * 60
    salts = {request.json()["cache_salt"] for request in edge.engine.requests}
    assert len(salts) == 1


async def test_access_that_is_taken_away_while_warm(edge: Edge) -> None:
    """A model that is loaded is refused to a caller whose first question is denied now."""
    edge.hub.state.set_gate(BASE, "bob", "rejected")
    assert (await edge.chat(BASE, ALICE)).status == 200
    assert (await edge.chat(BASE, BOB)).code == "access_denied"
    assert (await edge.chat("demo/public-lora", BOB)).code == "access_denied"
    assert len(edge.engine.requests) == 1


async def test_tokens_that_differ_in_the_last_character(edge: Edge) -> None:
    """No part of a token stands for the whole."""
    assert (await edge.chat(token=ALICE)).status == 200
    for token in (ALICE[:-1] + "f", ALICE[:-1], ALICE + "e", ALICE.upper().replace("HF_", "hf_")):
        assert (await edge.chat(token=token)).code == "invalid_api_key"
    assert len(edge.engine.requests) == 1
