"""One caller's questions to the Hub leave room for the others', whatever they are."""

import asyncio
from collections import Counter

import pytest

from hubgate.demo.hub import DemoHub
from hubgate.proxy.errors import Denied
from hubgate.proxy.hub.breaker import THRESHOLD
from hubgate.proxy.hub.fair_turns import AT_ONCE, RESERVE, FairTurns
from hubgate.proxy.hub.histories import PAGES_PER_MINUTE
from hubgate.proxy.metrics.registry import Metrics
from hubgate.wire.secret import Secret
from tests.fakes.hub_client import PRIVATE, PUBLIC, MakeClient, code
from tests.fakes.raw import RawAnswer
from tests.fakes.running_proxy import ALICE, BASE, BOB, Edge, eventually
from tests.proxy.conftest import StartEdge

PAGE = 2  # commits, at the demo Hub


def pages(edge: Edge) -> int:
    """Questions for a page of a history."""
    return sum("/commits/" in call for call in edge.hub_calls())


async def flooded(edge: Edge, many: int = 100) -> "list[asyncio.Task[RawAnswer]]":
    """Alice asks for so many repos of which the Hub says nothing, and her turns are taken."""
    edge.hub.state.set_down("hang", paths="*/ghost-*")
    asking = [asyncio.create_task(edge.chat(f"demo/ghost-{n}", ALICE)) for n in range(many)]

    async def waits() -> bool:
        return await edge.metric("hubgate_hub_questions_waiting") == many - AT_ONCE

    await eventually(waits)
    return asking


async def test_who_is_new_is_served_beside_a_flood(start_edge: StartEdge) -> None:
    """Whoami of a new token, and the first auth-checks after it, find a turn; the flood ends as it would."""
    edge = await start_edge({"hub": {"timeout": 30}, "limits": {"concurrent_requests": 100}})
    assert (await edge.chat()).status == 200
    asking = await flooded(edge)
    assert (await edge.chat(token=BOB)).status == 200
    assert (await edge.chat("demo/public-lora", token=BOB)).status == 200
    edge.hub.state.set_down(None)
    statuses = Counter(answer.status for answer in await asyncio.gather(*asking))
    assert set(statuses) <= {404, 503}  # those that hung are an outage, the others a verdict
    assert statuses[404] >= 100 - AT_ONCE - RESERVE


async def test_who_waits_in_vain_learns_nothing_of_the_hub(
    hub: DemoHub, make_client: MakeClient, metrics: Metrics
) -> None:
    """It is an outage for them alone: nobody who asks the same shares it, and no breaker opens."""
    client = make_client(hub.endpoint, turns=FairTurns(1, 0), patience=0.02)
    token = Secret("hf_demo_alice")
    hub.state.set_down("hang")
    asking = asyncio.create_task(client.auth_check(token, PRIVATE, "alice"))
    await hub.state.outages.wait_held(1)
    for _ in range(2 * THRESHOLD):
        denied = await client.auth_check(Secret("hf_demo_bob"), PRIVATE, "bob")
        assert isinstance(denied, Denied)
        assert (denied.code, denied.own) == ("hub_unavailable", True)
    assert b"hubgate_hub_up 1.0" in metrics.expose()
    assert b"hubgate_hub_questions_waiting 0.0" in metrics.expose()
    hub.state.set_down(None)
    await asking
    assert code(await client.auth_check(Secret("hf_demo_bob"), PRIVATE, "bob")) == "model_not_found"


async def test_walks_leave_to_newcomers_what_is_kept_for_them(hub: DemoHub, make_client: MakeClient) -> None:
    """Neither the list of refs nor a page of a history takes a turn of the reserve."""
    client = make_client(hub.endpoint, turns=FairTurns(1, 1), patience=0.02)
    alice, bob = Secret("hf_demo_alice"), Secret("hf_demo_bob")
    hub.state.set_down("hang", paths="*/auth-check")
    asking = asyncio.create_task(client.auth_check(alice, PRIVATE, "alice"))
    await hub.state.outages.wait_held(1)
    for walk in (client.refs(bob, PUBLIC, "bob"), client.commits(bob, PUBLIC, None, "bob")):
        denied = await walk
        assert isinstance(denied, Denied)
        assert (denied.code, denied.own) == ("hub_unavailable", True)
    assert code(await client.whoami(bob, "bob")) == "WhoAmI"
    hub.state.set_down(None)
    await asking
    assert code(await client.refs(bob, PUBLIC, "bob")) == "Refs"


@pytest.mark.parametrize("at_once", [1, 10])
async def test_a_hundred_old_commits_cost_one_walk(start_edge: StartEdge, at_once: int) -> None:
    """Names of old commits of one repo, by two callers, are a page for each two commits, asked for once."""
    edge = await start_edge()
    shas = [edge.hub.state.add_commit(BASE, {"README.md": f"{n}".encode()}) for n in range(60)]
    named = [*reversed(shas)]
    for first in range(0, 60, at_once):
        asked = [
            edge.chat(f"{BASE}@{sha}", ALICE if number % 2 else BOB)
            for number, sha in enumerate(named[first : first + at_once])
        ]
        answers = await asyncio.gather(*asked)
        assert {answer.status for answer in answers} <= {200, 429, 503}  # cold loads have limits of their own
    assert pages(edge) < 2 * 60 / PAGE  # the first one again now and then


async def test_a_walk_too_many_is_refused(start_edge: StartEdge) -> None:
    """The 429 says when to come again, in the caller's dialect; another caller walks on."""
    edge = await start_edge({"hub": {"revision_ttl": 0.001, "denial_ttl": 0.001}})
    for number in range(PAGE * 45):
        edge.hub.state.add_commit(BASE, {"README.md": f"{number}".encode()})
    unknown = [f"{BASE}@{number:040x}" for number in range(4)]
    assert [(await edge.chat(name)).code for name in unknown[:2]] == ["model_not_allowed"] * 2
    refused = await edge.chat(unknown[2])
    assert (refused.status, refused.code) == (429, "rate_limit_exceeded")
    assert 1 <= int(refused.header("Retry-After") or "0") <= 60
    assert pages(edge) <= PAGES_PER_MINUTE + 5
    assert (await edge.chat(unknown[3], BOB)).code == "model_not_allowed"
