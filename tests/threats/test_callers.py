"""Who calls: tokens that look alike, crowds before a Hub that is away, and junk."""

import asyncio
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from hubgate.demo.catalog import Token
from hubgate.proxy.auth.unknown_tokens import NEWCOMERS_FACTOR
from tests.fakes.answers import head, whole
from tests.fakes.engine import Connection, RawEngine, Received
from tests.fakes.raw import RawAnswer
from tests.fakes.running_proxy import ALICE, BASE, BOB, PRIVATE, PUBLIC, Edge, eventually
from tests.isolation.client import Client

CROWD_OF_CALLERS = 500
JUNK = 10_000
BUDGET = 20  # refused tokens a minute and client


async def test_row_19_tokens_that_differ_in_the_last_character_are_two_identities(edge: Edge) -> None:
    """Two good tokens, alike but for their last character, are two callers with a life of their own each."""
    alices, bobs = ALICE + "x" * 80 + "1", ALICE + "x" * 80 + "2"
    edge.hub.state.add_token(alices, Token(user="alice", name="one"))
    edge.hub.state.add_token(bobs, Token(user="bob", name="two"))
    for _ in range(2):  # from the Hub, then from the caches
        assert (await edge.chat(PRIVATE, alices)).status == 200
        assert (await edge.chat(PRIVATE, bobs)).code == "model_not_found"
    assert (await edge.chat(BASE, bobs)).status == 200
    assert len({sent.json()["cache_salt"] for sent in edge.engine.requests}) == 2
    assert len({sent.header("x-hubgate-grant") for sent in edge.engine.requests}) == 2
    prints = {record["user"]: record["fingerprint"] for record in await edge.records(6) if "user" in record}
    assert prints["alice"] != prints["bob"]
    edge.hub.state.revoke(alices)
    edge.proxy.reloader.forget()
    assert (await edge.chat(BASE, alices)).code == "invalid_api_key"
    assert (await edge.chat(BASE, bobs)).status == 200


def unavailable(answer: RawAnswer) -> bool:
    told = (answer.status, answer.code) == (503, "hub_unavailable")
    return told and 1 <= int(str(answer.header("Retry-After"))) <= 120


@pytest.mark.parametrize(
    "fault",
    [head(503, [("Content-Length", "0")]), head(429, [("Retry-After", "1"), ("Content-Length", "0")])],
    ids=["503", "429"],
)
async def test_row_21_a_crowd_before_a_hub_that_is_away(tmp_path: Path, fault: bytes) -> None:
    """500 concurrent callers cause one question; all get 503 and a time, and nothing is remembered."""
    go = asyncio.Event()

    async def fail_late(_: Received, connection: Connection) -> None:
        await go.wait()
        connection.send(fault)

    async with RawEngine.start() as hub:
        hub.then(fail_late)
        hub.always(_good_hub)
        settings = {
            "hub": {"endpoint": f"http://127.0.0.1:{hub.port}"},
            "limits": {"concurrent_requests": CROWD_OF_CALLERS},
        }
        async with Edge.start(tmp_path, settings) as edge:
            asking = [asyncio.create_task(edge.chat()) for _ in range(CROWD_OF_CALLERS)]

            async def all_wait() -> bool:
                return await edge.metric("hubgate_in_flight_requests") == CROWD_OF_CALLERS

            await eventually(all_wait)
            go.set()
            assert all(unavailable(answer) for answer in await asyncio.gather(*asking))
            assert len(hub.requests) == 1
            assert edge.engine.requests == []

            async def served() -> bool:
                answer = await edge.chat()
                assert answer.status == 200 or (b"429" in fault and unavailable(answer))
                return answer.status == 200

            await eventually(served)  # at once after the 503, a second later after the 429


async def _good_hub(received: Received, connection: Connection) -> None:
    made = datetime.now(UTC).isoformat()
    token = {"role": "read", "displayName": "ci", "createdAt": made}
    facts = {
        "type": "user",
        "id": "1",
        "name": "alice",
        "auth": {"type": "access_token", "accessToken": token},
    }
    connection.send(whole(200, msgspec.json.encode(facts if "whoami" in received.target else {})))


async def test_row_22_ten_thousand_random_tokens_cost_a_bounded_number_of_questions(tmp_path: Path) -> None:
    """Of one client's 10,000 the Hub is asked about 20; who is known, or comes from elsewhere, is served."""
    settings = {"hub": {"refused_tokens_per_minute": BUDGET}, "listen": {"trusted_proxies": ["127.0.0.0/8"]}}
    async with Edge.start(tmp_path, settings) as edge:
        assert (await edge.chat(token=ALICE)).status == 200
        client = Client(edge.port)

        async def junk(numbers: range) -> Counter[str]:
            codes: Counter[str] = Counter()
            for number in numbers:
                answer = await client.ask("GET", "/v1/models", f"hf_{number:08}junk", f"request-{number}")
                codes[answer.code] += 1
                if number % 100 == 0:
                    good = await client.ask("GET", "/v1/models", ALICE, f"request-{number}")
                    codes["served"] += good.status == 200
            return codes

        flood = [asyncio.create_task(junk(range(n, JUNK, 10))) for n in range(10)]
        codes = sum(await asyncio.gather(*flood), Counter[str]())
        await client.close()
        assert codes == {
            "invalid_api_key": BUDGET,
            "rate_limit_exceeded": JUNK - BUDGET,
            "served": JUNK // 100,
        }
        whoami = [entry for entry in edge.hub.log if entry.path == "/api/whoami-v2"]
        assert len(whoami) == 1 + BUDGET
        elsewhere = [("X-Forwarded-For", "203.0.113.7")]
        assert (await edge.ask("GET", "/v1/models", BOB, elsewhere)).status == 200


async def test_row_22_junk_from_many_addresses_is_bounded_in_all(tmp_path: Path) -> None:
    """A crowd of addresses with a token each cannot ask more than forty clients' worth in a minute."""
    settings = {"hub": {"refused_tokens_per_minute": 2}, "listen": {"trusted_proxies": ["127.0.0.0/8"]}}
    async with Edge.start(tmp_path, settings) as edge:
        assert (await edge.chat(token=ALICE)).status == 200
        for number in range(200):
            whence = [("X-Forwarded-For", f"203.0.113.{number}")]
            await edge.ask("GET", "/v1/models", f"hf_{number:08}junk", whence)
        assert len([entry for entry in edge.hub.log if entry.status == 401]) == 2 * NEWCOMERS_FACTOR
        assert (await edge.chat(token=ALICE)).status == 200


@pytest.mark.parametrize("model", [PRIVATE + "@refs/pr/7", PRIVATE + "@{pull}", PUBLIC + "@refs/pr/1"])
async def test_row_44_a_pull_request_is_not_served(edge: Edge, model: str) -> None:
    """Neither its ref nor its bare sha, though the Hub resolves both: 403, nothing loaded, nothing sent."""
    model = model.format(pull=edge.hub.state.sha(PRIVATE, "refs/pr/7"))
    for _ in range(2):
        answer = await edge.chat(model, ALICE)
        assert (answer.status, answer.code) == (403, "model_not_allowed")
    assert edge.engine.requests == []
    assert edge.backend.asked == []
    assert (await edge.chat(PRIVATE, ALICE)).status == 200


async def test_row_46_an_account_that_is_not_listed_does_not_call(tmp_path: Path) -> None:
    """A good token of somebody else's is 403 on every endpoint; its models are not asked about."""
    async with Edge.start(tmp_path, {"callers": {"users": ["alice"], "orgs": ["nobody"]}}) as edge:
        answers = [await edge.chat(token=BOB), await edge.ask("GET", "/v1/models", BOB)]
        answers.append(await edge.ask("GET", f"/v1/models/{PUBLIC}", BOB))
        assert {(one.status, one.code) for one in answers} == {(403, "caller_not_allowed")}
        assert edge.hub_calls() == ["GET /api/whoami-v2"]
        assert edge.engine.requests == []
        assert (await edge.chat(token=ALICE)).status == 200
