"""When the Hub is away: warm callers go on, cold ones are told to come back, and nothing is remembered."""

import asyncio
from collections import Counter

import pytest

from hubgate.proxy.hub.breaker import THRESHOLD
from tests.fakes.answers import head, raw, whole
from tests.fakes.engine import Connection, RawEngine, Received
from tests.fakes.raw import RawAnswer
from tests.fakes.running_proxy import ALICE, BASE, BOB, PRIVATE, PUBLIC, Edge, eventually
from tests.proxy.conftest import StartEdge


def unavailable(answer: RawAnswer) -> bool:
    """Whether an answer says that the Hub is away, and when to come back."""
    told = (answer.status, answer.code) == (503, "hub_unavailable")
    return told and 1 <= int(str(answer.header("Retry-After"))) <= 120


@pytest.mark.parametrize("mode", ["500", "502", "503", "504", "disconnect", "cut"])
async def test_cold_callers_wait_and_warm_ones_go_on(edge: Edge, mode: str) -> None:
    """An outage is 503 for who is not known, and nothing for who is."""
    assert (await edge.chat(token=ALICE)).status == 200
    edge.hub.state.set_down(mode)
    assert unavailable(await edge.chat(token=BOB))
    assert (await edge.chat(token=ALICE)).status == 200
    assert unavailable(await edge.chat(PRIVATE, ALICE))
    edge.hub.state.set_down(None)
    assert (await edge.chat(token=BOB)).status == 200
    assert (await edge.chat(PRIVATE, ALICE)).status == 200


async def test_a_slow_hub_is_given_up(start_edge: StartEdge) -> None:
    """Who waits for a Hub that hangs is told so after its timeout."""
    edge = await start_edge({"hub": {"timeout": 0.1}})
    edge.hub.state.set_down("hang")
    assert unavailable(await edge.chat())


@pytest.mark.parametrize("what", ["*whoami*", "*auth-check", "*/revision/*", "*/resolve/*"])
async def test_an_outage_of_one_kind_of_question(edge: Edge, what: str) -> None:
    """Whatever question fails, the answer is 503 and no denial, and the next try is fine."""
    edge.hub.state.set_down("503", paths=what)
    assert unavailable(await edge.chat(PRIVATE))
    edge.hub.state.set_down(None)
    assert (await edge.chat(PRIVATE)).status == 200
    assert edge.engine.requests
    codes = [record["reason"] for record in await edge.records(2, "request.done")]
    assert codes == ["hub_unavailable", "ok"]


async def test_five_hundred_equal_requests_ask_once(start_edge: StartEdge) -> None:
    """Equal cold requests at the same time are one whoami and one auth-check, and all are served."""
    edge = await start_edge({"limits": {"concurrent_requests": 500}})
    edge.hub.state.set_down("slow", seconds=0.2)
    answers = await asyncio.gather(*[edge.chat() for _ in range(500)])
    assert Counter(answer.status for answer in answers) == {200: 500}
    assert Counter(edge.hub_calls()) == {
        "GET /api/whoami-v2": 1,
        f"GET /api/models/{BASE}/auth-check": 1,
    }


async def test_a_crowd_in_an_outage_asks_once(start_edge: StartEdge) -> None:
    """A crowd before a broken Hub does not make it worse: one question, and 503 for everybody."""
    go = asyncio.Event()

    async def fail_late(_: Received, connection: Connection) -> None:
        await go.wait()
        connection.send(whole(503, b""))

    async with RawEngine.start() as rogue:
        rogue.always(fail_late)
        edge = await start_edge({"hub": {"endpoint": f"http://127.0.0.1:{rogue.port}"}})
        asking = [asyncio.create_task(edge.chat()) for _ in range(200)]

        async def all_wait() -> bool:
            return await edge.metric("hubgate_in_flight_requests") == 200

        await eventually(all_wait)
        go.set()
        assert all(unavailable(answer) for answer in await asyncio.gather(*asking))
        assert len(rogue.requests) == 1


async def test_an_outage_costs_a_row_of_callers_a_few_questions(start_edge: StartEdge) -> None:
    """Who comes one after the other during an outage is answered at once, and hardly asks the Hub."""
    edge = await start_edge({"hub": {"timeout": 0.2}})
    assert (await edge.chat(token=ALICE)).status == 200
    edge.hub.state.set_down("hang")
    edge.hub.log.clear()
    for number in range(40):
        assert unavailable(await edge.chat(token=f"hf_cold_{number:03}"))
        assert (await edge.chat(token=ALICE)).status == 200
    assert THRESHOLD <= len(edge.hub_calls()) < 15
    assert await edge.metric("hubgate_hub_up") == 0
    edge.hub.state.set_down(None)

    async def back() -> bool:
        return (await edge.chat(token=BOB)).status == 200

    await eventually(back)
    assert await edge.metric("hubgate_hub_up") == 1


async def test_the_silence_of_one_account_is_its_own(edge: Edge) -> None:
    """A caller who used up their budget at the Hub is told to wait; another cold one is served."""
    edge.hub.state.set_down("429", times=1, paths="*/auth-check")
    first = await edge.chat(token=ALICE)
    assert unavailable(first)
    assert first.header("Retry-After") == "55"
    assert (await edge.chat(token=BOB)).status == 200
    assert unavailable(await edge.chat(token=ALICE))
    assert sum(call.endswith("/auth-check") for call in edge.hub_calls("alice")) == 1


async def test_a_commit_that_is_merged_is_served_soon(start_edge: StartEdge) -> None:
    """That a commit lies outside of main's history is remembered as a refusal is, and not as a fact."""
    edge = await start_edge({"hub": {"denial_ttl": 0.05, "revision_ttl": 3600}})
    first = edge.hub.state.sha(PUBLIC)
    commit = edge.hub.state.add_commit(PUBLIC, {"README.md": b"new"}, ref="refs/pr/1", parent=first)
    assert (await edge.chat(f"{PUBLIC}@{commit}")).code == "model_not_allowed"
    edge.hub.state.move_main(PUBLIC, commit)

    async def served() -> bool:
        return (await edge.chat(f"{PUBLIC}@{commit}")).status == 200

    await eventually(served)


async def test_a_busy_caller_waits_for_the_hub_once(start_edge: StartEdge) -> None:
    """What is in use is asked for ahead of its end: through many lives, nobody but the first waits."""
    edge = await start_edge({"hub": {"identity_ttl": 1.0, "access_ttl": 0.5}})
    assert (await edge.chat()).status == 200
    edge.hub.log.clear()

    async def renewed() -> bool:
        assert (await edge.chat()).status == 200
        return edge.hub_calls().count("GET /api/whoami-v2") >= 2

    await eventually(renewed)
    assert await edge.metric("hubgate_authentications_total", source="hub") == 1
    assert await edge.metric("hubgate_authorizations_total", source="hub") == 1


async def test_a_429_is_obeyed(edge: Edge) -> None:
    """For as long as the Hub asks for silence it is not asked; warm callers do not notice."""
    await edge.chat(token=ALICE)
    edge.hub.state.set_down("429", times=1)
    edge.hub.log.clear()
    first = await edge.chat(token=BOB)
    assert unavailable(first)
    assert first.header("Retry-After") == "55"
    for _ in range(5):
        assert unavailable(await edge.chat(token=BOB))
        assert (await edge.chat(token=ALICE)).status == 200
    assert len(edge.hub_calls()) == 1


async def test_a_revoked_token_is_refused_after_its_life(start_edge: StartEdge) -> None:
    """A revocation counts from the end of the answer's life on."""
    edge = await start_edge({"hub": {"identity_ttl": 0.2, "access_ttl": 0.1}})
    assert (await edge.chat()).status == 200
    edge.hub.state.revoke(user="alice")
    async with asyncio.timeout(5):
        while (answer := await edge.chat()).status == 200:
            pass
    assert (answer.status, answer.code) == (401, "invalid_api_key")
    assert (await edge.chat()).status == 401


async def test_a_revoked_token_ends_the_identity_with_the_access(start_edge: StartEdge) -> None:
    """A 401 from auth-check ends the cached identity at once, however long it had to live."""
    edge = await start_edge({"hub": {"identity_ttl": 300, "access_ttl": 0.05}})
    assert (await edge.chat()).status == 200
    edge.hub.state.revoke(user="alice")
    async with asyncio.timeout(5):
        while (await edge.chat()).status == 200:
            pass
    answer = await edge.ask("GET", "/v1/models")
    assert (answer.status, answer.code) == (401, "invalid_api_key")


async def test_a_crowd_of_unknown_tokens_hurts_nobody(edge: Edge) -> None:
    """Junk is refused, each once with the Hub's help, and good callers go on."""
    await edge.chat(token=ALICE)
    for number in range(20):
        for _ in range(2):
            assert (await edge.chat(token=f"hf_junk_{number:04}")).status == 401
    assert len(edge.hub_calls()) == 2 + 20
    assert (await edge.chat(token=ALICE)).status == 200


WHOAMI = (
    b'{"type":"user","id":"1","name":"alice","auth":{"type":"access_token","accessToken":'
    b'{"role":"read","displayName":"x","createdAt":"2999-01-01T00:00:00Z"}}}'
)


async def test_no_cookie_of_one_caller_goes_with_another(start_edge: StartEdge) -> None:
    """What the Hub sets for one caller is not sent for the next, nor a second time for the same."""
    async with RawEngine.start() as rogue:
        cookie = [("Set-Cookie", "session=alice"), ("Content-Length", "2")]
        rogue.always(raw(head(401, cookie) + b"{}"))
        edge = await start_edge({"hub": {"endpoint": f"http://127.0.0.1:{rogue.port}"}})
        for token in (ALICE, BOB, "hf_demo_other"):
            await edge.chat(token=token)
        assert len(rogue.requests) == 3
        assert [sent.header("cookie") for sent in rogue.requests] == [None] * 3


async def test_the_service_token_is_never_a_callers(
    start_edge: StartEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Hub never sees the operator's token for a caller, whatever the environment holds."""
    monkeypatch.setenv("HF_TOKEN", "hf_demo_service")
    edge = await start_edge()
    for token in (ALICE, BOB, None, "hf_demo_unknown"):
        await edge.chat(token=token)
    assert edge.hub_calls("service") == []
    assert all(entry.has_authorization for entry in edge.hub.log)


async def test_a_hub_that_answers_nonsense(start_edge: StartEdge) -> None:
    """A token whose facts make no sense is refused, not believed."""
    async with RawEngine.start() as rogue:
        rogue.always(raw(whole(200, WHOAMI)))
        edge = await start_edge({"hub": {"endpoint": f"http://127.0.0.1:{rogue.port}"}})
        assert (await edge.chat()).code == "token_too_old"
        rogue.always(raw(whole(200, b'{"type":"user","id":"1","name":"alice","auth":{"type":"new"}}')))
        assert (await edge.chat(token=BOB)).code == "insufficient_scope"
