"""Who is not let in, through the real proxy: a budget of refusals, and few lines that last."""

import asyncio
import hashlib
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from hubgate.proxy import app
from hubgate.proxy.audit import chain, refusal_report
from tests.cases import each
from tests.fakes.clock import Clock
from tests.fakes.raw import RawAnswer, RawClient, request
from tests.fakes.running_proxy import ALICE, BASE, BOB, CHAT, Edge, eventually
from tests.fakes.trail import disk
from tests.proxy.conftest import StartEdge

BUDGET = 20
BUDGETED = {"limits": {"refusals_per_minute": BUDGET}}
BEHIND = {**BUDGETED, "listen": {"trusted_proxies": ["127.0.0.0/8"]}}
COUNTS = ("auth.refused", "limits.refused")
KEY = "local-key-of-ci-0123456789"
NOBODY = request("GET", "/v1/models")


def whence(number: int) -> list[tuple[str, str]]:
    """A client's address, as a load balancer tells it."""
    return [("X-Forwarded-For", f"203.0.113.{number}")]


async def spend(edge: Edge, number: int | None = None) -> None:
    """Use up a client's budget."""
    for _ in range(BUDGET):
        await edge.ask("GET", "/v1/models", None, [] if number is None else whence(number))


def short(answer: RawAnswer) -> bool:
    """Whether this is the answer past the budget; then it is all that it must be."""
    if answer.status != 429:
        return False
    assert answer.code == "rate_limit_exceeded"
    assert answer.header("Connection") == "close"
    assert 1 <= int(answer.header("Retry-After") or 0) <= 60
    assert len(answer.raw) < 600
    return True


def decisions(edge: Edge) -> tuple[int, int]:
    """How many lines there are about who was not let in, and how many the reports count."""
    records = list(chain.records(edge.settings.audit.path))
    counts = [record["count"] for record in records if record["event"] in COUNTS]
    return sum(record["event"] not in COUNTS for record in records), sum(counts)


async def test_ten_thousand_pipelined_requests_without_a_token(start_edge: StartEdge) -> None:
    """They cost a budget of lines: then one 429, and the end of the connection. The sum is right."""
    edge = await start_edge(BUDGETED)
    for connections in (1, 2, 3):
        async with RawClient.connect(edge.port) as client:
            flood = asyncio.create_task(client.send(NOBODY * 10_000))
            answers = [await client.answer() for _ in range(BUDGET if connections == 1 else 0)]
            assert [answer.status for answer in answers] == [401] * len(answers)
            assert short(await client.answer())
            assert await client.rest() == b""
            await asyncio.gather(flood, return_exceptions=True)
    assert edge.hub_calls() == []
    assert await edge.metric("hubgate_unwritten_refusals_total", reason="budget") == 3
    assert await edge.metric("hubgate_requests_total", code="rate_limit_exceeded") == 3
    await edge.stop()
    assert decisions(edge) == (BUDGET, 3)
    assert edge.verify().faults == ()


async def test_who_is_still_sending_reads_the_last_answer(start_edge: StartEdge) -> None:
    """What comes after it is thrown away and not refused: a reset would take the answer along."""
    edge = await start_edge(BUDGETED)
    async with RawClient.connect(edge.port) as client:
        await client.send(NOBODY * 200_000)
        assert [(await client.answer()).status for _ in range(BUDGET)] == [401] * BUDGET
        assert short(await client.answer())


async def test_who_is_known_is_unhurt(start_edge: StartEdge) -> None:
    """Behind one address, somebody's junk costs another one nothing, known by a token or by a key of ours."""
    clock = Clock()
    edge = await start_edge(local_key(BUDGETED), clocks=app.Clocks(monotonic=clock))
    for token in (ALICE, KEY):
        assert (await edge.chat(token=token)).status == 200
    await spend(edge)
    assert short(await edge.ask("GET", "/v1/models", "hf_junk"))
    for _ in range(3):
        assert (await edge.chat(token=ALICE)).status == 200
        assert (await edge.chat(token=KEY)).status == 200
        assert (await edge.ask("GET", "/nowhere")).status == 404
        clock.advance(edge.settings.hub.identity_ttl)  # the Hub is asked anew, and not held up either
        await spend(edge)
        assert short(await edge.ask("GET", "/v1/models", "hf_junk"))
        edge.proxy.reloader.reload(
            lambda: edge.settings
        )  # which forgets whose a token is, not that it was good
    assert len([call for call in edge.hub_calls("alice") if call.endswith("whoami-v2")]) == 3


FLOODS: dict[str, Callable[[int], str | None]] = {
    "no token": lambda _: None,
    "guesses at local keys": lambda number: f"guess-{number}",
    "tokens of nobody": lambda number: f"hf_jwt_{number}",
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
async def test_a_good_token_comes_in_beside_a_flood(
    start_edge: StartEdge, flood: Callable[[int], str | None]
) -> None:
    """One that is new, or was rotated, or is the first since the start: the Hub decides, and nobody else."""
    edge = await start_edge(BUDGETED)
    for number in range(BUDGET):
        assert (await edge.ask("GET", "/v1/models", flood(number))).status == 401
    for token in (ALICE, BOB):
        assert short(await edge.ask("GET", "/v1/models", flood(BUDGET)))
        assert (await edge.ask("GET", "/v1/models", token)).status == 200
    await edge.stop()
    assert decisions(edge) == (BUDGET + 2, 2)


async def test_what_junk_past_the_budget_asks_is_bounded(start_edge: StartEdge) -> None:
    """A refused one is a short 429 without a line, and the Hub hears of as many as one client may ask."""
    edge = await start_edge({**BUDGETED, "hub": {"refused_tokens_per_minute": 5}})
    await spend(edge)
    for number in range(10):
        assert short(await edge.ask("GET", "/v1/models", f"hf_junk{number}"))
    assert len(edge.hub_calls()) == 5
    await edge.stop()
    assert decisions(edge) == (BUDGET, 10)


async def test_who_was_known_and_is_revoked(start_edge: StartEdge) -> None:
    """The Hub's next no ends it: then the token is junk like any other, with junk's budget of questions."""
    edge = await start_edge({**BUDGETED, "hub": {"refused_tokens_per_minute": 1}})
    assert (await edge.chat(token=ALICE)).status == 200
    await spend(edge)
    edge.hub.state.revoke(user="alice")
    edge.proxy.reloader.forget()
    asked = len(edge.hub_calls())
    for _ in range(3):
        assert short(await edge.chat(token=ALICE))
        edge.proxy.reloader.forget()
    assert len(edge.hub_calls()) == asked + 2  # its own, and all that junk may


async def test_other_clients_are_unhurt(start_edge: StartEdge) -> None:
    """A budget is one client's; a key is looked up of somebody at the next address."""
    edge = await start_edge(local_key(BEHIND))
    await spend(edge, 1)
    assert short(await edge.ask("GET", "/v1/models", KEY, whence(1)))
    assert (await edge.ask("GET", "/v1/models", KEY, whence(2))).status == 200


async def test_it_is_over_after_a_minute(start_edge: StartEdge) -> None:
    """Then the client is heard again."""
    clock = Clock()
    edge = await start_edge(local_key(BUDGETED), clocks=app.Clocks(monotonic=clock))
    await spend(edge)
    assert short(await edge.chat(token=KEY))
    clock.advance(60)
    assert (await edge.chat(token=KEY)).status == 200


def local_key(settings: dict[str, Any]) -> dict[str, Any]:
    entry = {"name": "ci", "sha256": hashlib.sha256(KEY.encode()).hexdigest(), "token": "service"}
    return {**settings, "keys": [{**entry, "models": ["demo/*"]}]}


@pytest.fixture(autouse=True)
def _service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_demo_service")


async def test_guesses_at_local_keys(start_edge: StartEdge) -> None:
    """Past the budget a guess is not looked at, were it right: not even of a key that others use."""
    edge = await start_edge(local_key(BEHIND))
    assert (await edge.ask("GET", "/v1/models", KEY, whence(2))).status == 200
    for guess in range(BUDGET):
        answer = await edge.ask("GET", "/v1/models", f"guess-{guess}", whence(1))
        assert (answer.status, answer.code) == (401, "invalid_api_key")
    assert short(await edge.ask("GET", "/v1/models", "guess", whence(1)))
    assert short(await edge.ask("GET", "/v1/models", KEY, whence(1)))
    assert (await edge.ask("GET", "/v1/models", KEY, whence(2))).status == 200


GARBAGE = b"GET / HTTP/1.1\r\nHost: hubgate\r\nX: \x00\r\n\r\n"
LONG = b"GET / HTTP/1.1\r\nHost: hubgate\r\nX: " + b"x" * 9000 + b"\r\n\r\n"
REFUSED = {
    "no credential": (401, NOBODY),
    "malformed": (401, request("GET", "/v1/models", [("Authorization", "Basic abc")])),
    "two credentials": (400, request("GET", "/v1/models", [("Authorization", "Bearer hf_abc")] * 2)),
    "unknown token": (401, request("GET", "/v1/models", [("Authorization", "Bearer hf_unknown")])),
    "no local key": (401, request("GET", "/v1/models", [("Authorization", "Bearer sk-unknown")])),
    "not a caller": (403, request("GET", "/v1/models", [("Authorization", f"Bearer {BOB}")])),
    "no route": (404, request("GET", "/nowhere")),
    "wrong method": (405, request("PUT", CHAT)),
    "no HTTP": (400, GARBAGE),
    "too long": (431, LONG),
}


@pytest.mark.parametrize(("status", "data"), REFUSED.values(), ids=REFUSED)
async def test_what_counts(start_edge: StartEdge, status: int, data: bytes) -> None:
    """Every refusal that says that nobody known is there; none of it is past the budget by then."""
    edge = await start_edge({**BUDGETED, "callers": {"users": ["alice"]}})
    for _ in range(BUDGET):
        async with RawClient.connect(edge.port) as client:
            await client.send(data)
            assert (await client.answer()).status == status
    assert short(await edge.ask("GET", "/v1/models", "hf_junk"))
    asked = len(edge.hub_calls())
    async with RawClient.connect(edge.port) as client:
        await client.send(data)
        answer = await client.answer()
        assert answer.status in (429, status)
        assert short(answer) or status in (400, 431)
    assert len(edge.hub_calls()) == asked
    assert (await edge.ask("GET", "/health", None)).status == 200
    await edge.stop()
    lines, counted = decisions(edge)
    audited = data not in (GARBAGE, LONG) and status not in (404, 405)
    assert lines == BUDGET * audited
    assert counted == 1 + (data not in (GARBAGE, LONG))


async def test_what_does_not_count(start_edge: StartEdge) -> None:
    """Whatever a known caller is refused, their address keeps its budget."""
    edge = await start_edge(BUDGETED)
    assert (await edge.chat(token=ALICE)).status == 200
    async with RawClient.connect(edge.port) as client:
        for target, status in (("/nowhere", 404), ("/v1/models/demo/none", 404), (CHAT, 405)) * BUDGET:
            await client.send(request("GET", target, [("Authorization", f"Bearer {ALICE}")]))
            assert (await client.answer("GET")).status == status
    for _ in range(BUDGET):
        async with RawClient.connect(edge.port) as client:
            await client.send(request("GET", "/v1/models", [("Authorization", f"Bearer {ALICE}")]) + GARBAGE)
            assert [(await client.answer()).status for _ in range(2)] == [200, 400]
    assert (await edge.chat(token=BOB)).status == 200


async def test_an_outage_of_the_hub_is_nobodys_fault(start_edge: StartEdge) -> None:
    """Unknown tokens get 503 for as long as it lasts, with a budget of lines, and are served afterwards."""
    edge = await start_edge(BUDGETED)
    edge.hub.state.set_down("503")
    for number in range(BUDGET + 10):
        answer = await edge.ask("GET", "/v1/models", f"hf_junk{number}")
        assert (answer.status, answer.code) == (503, "hub_unavailable")
    assert (await edge.ask("GET", "/nowhere", None)).status == 404  # the budget of refusals is whole
    await edge.stop()
    assert decisions(edge) == (BUDGET, 10)


async def test_who_leaves_before_the_answer_writes_no_more_lines(start_edge: StartEdge) -> None:
    """To hang up while the Hub is asked about a token is no way to more lines; it is counted."""
    edge = await start_edge({"limits": {"refusals_per_minute": 3}})
    edge.hub.state.set_down("hang")

    def under_way(count: int) -> Callable[[], Awaitable[bool]]:
        async def so_many() -> bool:
            return await edge.metric("hubgate_in_flight_requests") == count

        return so_many

    for number in range(5):
        async with RawClient.connect(edge.port) as client:
            await client.send(request("GET", "/v1/models", [("Authorization", f"Bearer hf_junk{number}")]))
            await eventually(under_way(1))
        await eventually(under_way(0))
    edge.hub.state.set_down(None)
    await edge.stop()
    assert decisions(edge) == (3, 2)
    assert {one["status"] for one in chain.records(edge.settings.audit.path) if "status" in one} == {499}


@each(
    ("target", "shape"),
    [
        (CHAT, {"error"}),
        ("/v1/responses", {"error"}),
        ("/v1/messages", {"type", "error", "request_id"}),
        ("/nowhere", {"error"}),
    ],
)
async def test_in_each_dialect(tmp_path: Path, target: str, shape: set[str]) -> None:
    """An SDK reads it as its own service's 429."""
    async with Edge.start(tmp_path / target.replace("/", "-"), BUDGETED) as edge:
        await spend(edge)
        answer = await edge.post(target, {"model": BASE}, None)
        assert short(answer)
        assert answer.json().keys() == shape
        assert answer.json()["error"]["type"] == "rate_limit_error"


async def test_pipelined_with_good_ones(start_edge: StartEdge) -> None:
    """What is good before the budget's end is answered in its place; behind it nothing is read any more."""
    edge = await start_edge(BUDGETED)
    good = request("GET", "/v1/models", [("Authorization", f"Bearer {ALICE}")])
    async with RawClient.connect(edge.port) as client:
        await client.send((good + NOBODY) * (BUDGET + 5))
        for _ in range(BUDGET):
            assert [(await client.answer()).status for _ in range(2)] == [200, 401]
        assert (await client.answer()).status == 200
        assert short(await client.answer())
        assert await client.rest() == b""
    assert (await edge.ask("GET", "/v1/models")).status == 200
    await edge.stop()
    assert decisions(edge) == (2 * BUDGET + 2, 1)


async def test_a_report_every_minute(start_edge: StartEdge, monkeypatch: pytest.MonkeyPatch) -> None:
    """One record for each client, with how many of its refusals have no line."""
    monkeypatch.setattr(refusal_report, "WINDOW", 0.05)
    edge = await start_edge(BEHIND)
    for number, more in ((1, 3), (2, 5)):
        await spend(edge, number)
        for _ in range(more):
            assert short(await edge.ask("GET", "/v1/models", None, whence(number)))

    async def told() -> bool:
        return decisions(edge) == (2 * BUDGET, 8)

    await eventually(told)
    counts: Counter[str] = Counter()
    for record in await edge.records(1, "auth.refused"):
        counts[record["client"]] += record["count"]
        assert record["decision"] == "denied"
    assert counts == {"203.0.113.1": 3, "203.0.113.2": 5}
    assert edge.verify().faults == ()


async def test_a_disk_that_is_nearly_full(start_edge: StartEdge, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left is for those who are known: they are served and told of, refusals are only counted."""
    monkeypatch.setattr(os, "statvfs", lambda _: disk(4096, 10**12))
    edge = await start_edge(BEHIND)
    for number in range(5):
        assert (await edge.ask("GET", "/v1/models", None, whence(number))).status == 401
    assert (await edge.chat(token=ALICE)).status == 200
    assert await edge.metric("hubgate_unwritten_refusals_total", reason="disk") == 5
    await edge.stop()
    assert decisions(edge) == (1, 5)
    (report,) = [one for one in chain.records(edge.settings.audit.path) if one["event"] == "auth.refused"]
    assert report["client"] == "(others)"


async def test_a_reload_changes_the_number(start_edge: StartEdge) -> None:
    """It is one of the limits that SIGHUP reloads."""
    edge = await start_edge(local_key(BUDGETED))
    await spend(edge)
    assert short(await edge.chat(token=KEY))
    more = edge.settings.limits.model_copy(update={"refusals_per_minute": BUDGET + 100})
    edge.proxy.reloader.reload(lambda: edge.settings.model_copy(update={"limits": more}))
    assert (await edge.chat(token=KEY)).status == 200


THROTTLED = {"limits": {"requests_per_minute": 2, "refusals_per_minute": 5}}


async def test_a_caller_beyond_the_limits_writes_few_lines(start_edge: StartEdge) -> None:
    """A budget of them; the rest is one record with the caller's name, and nobody else's budget."""
    edge = await start_edge(THROTTLED)
    answers = [await edge.ask("GET", "/v1/models") for _ in range(20)]
    assert [answer.status for answer in answers] == [200] * 2 + [429] * 18
    assert {answer.header("x-ratelimit-limit-requests") for answer in answers} == {"2"}
    answers = [await edge.ask("GET", "/v1/models", BOB) for _ in range(4)]
    assert [answer.status for answer in answers] == [200] * 2 + [429] * 2
    assert (await edge.ask("GET", "/v1/models", None)).status == 401
    assert await edge.metric("hubgate_unwritten_refusals_total", reason="budget") == 13
    await edge.stop()
    assert decisions(edge) == (2 + 5 + 4 + 1, 13)
    records = list(chain.records(edge.settings.audit.path))
    (counted,) = [one for one in records if one["event"] == "limits.refused"]
    assert (counted["user"], counted["count"]) == ("alice", 13)
    assert counted["sub"] in {one.get("sub") for one in records if one.get("status") == 429}
    assert edge.verify().faults == ()


async def test_a_caller_beyond_the_limits_on_a_disk_that_is_nearly_full(
    start_edge: StartEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is let in has a line as ever; what the limits refuse is only counted, in one sum."""
    monkeypatch.setattr(os, "statvfs", lambda _: disk(4096, 10**12))
    edge = await start_edge(THROTTLED)
    for token in (ALICE, BOB):
        statuses = [(await edge.ask("GET", "/v1/models", token)).status for _ in range(4)]
        assert statuses == [200, 200, 429, 429]
    assert await edge.metric("hubgate_unwritten_refusals_total", reason="disk") == 4
    await edge.stop()
    assert decisions(edge) == (4, 4)
    records = chain.records(edge.settings.audit.path)
    (counted,) = [one for one in records if one["event"] == "limits.refused"]
    assert (counted["user"], "sub" in counted) == ("(others)", False)
