"""A 429 of whoami: its own token waits; for everybody only where it is the address that is limited."""

import asyncio
import hashlib
import itertools

import structlog

from hubgate.proxy.errors import Denied
from hubgate.proxy.hub.client import HubClient
from hubgate.proxy.hub.transport import LONGEST_PROBING, SEVERAL
from hubgate.wire.secret import Secret
from tests.fakes.answers import head, raw, whole
from tests.fakes.clock import Clock
from tests.fakes.engine import Answer, Connection, RawEngine, Received
from tests.fakes.hub_client import PUBLIC, code
from tests.fakes.running_proxy import ALICE, Edge
from tests.fakes.running_proxy import PUBLIC as PUBLIC_MODEL

SILENCE = 55
FACTS = raw(whole(200, b'{"id":"1","name":"alice"}'))


def busy(seconds: int = SILENCE) -> Answer:
    return raw(head(429, [("Retry-After", str(seconds)), ("Content-Length", "0")]))


def token(number: int) -> Secret:
    return Secret("hf_" + hashlib.sha256(b"%d" % number).hexdigest())


async def limit(rogue: RawEngine, client: HubClient) -> None:
    """Have it seen that the address is limited."""
    rogue.always(busy())
    for number in range(SEVERAL):
        assert code(await client.whoami(token(-number))) == "hub_unavailable"
    assert len(rogue.requests) == SEVERAL


async def test_a_429_silences_its_own_token_alone(rogue: RawEngine, rogue_client: HubClient) -> None:
    """And about whoami only; every other caller is answered as before."""
    rogue.then(busy())
    rogue.always(FACTS)
    for _ in range(3):
        denied = await rogue_client.whoami(token(0))
        assert isinstance(denied, Denied)
        assert (denied.code, denied.retry_after, denied.own) == ("hub_unavailable", SILENCE, True)
    assert len(rogue.requests) == 1
    assert code(await rogue_client.auth_check(token(0), PUBLIC)) == "Allowed"
    assert {code(await rogue_client.whoami(token(number))) for number in range(1, 20)} == {"WhoAmI"}
    assert code(await rogue_client.whoami(token(0))) == "hub_unavailable"


async def test_a_429_of_another_question_says_nothing_of_whoami(
    rogue: RawEngine, rogue_client: HubClient
) -> None:
    """However many accounts have used up their budgets."""
    rogue.always(busy())
    for number in range(SEVERAL * 2):
        assert code(await rogue_client.auth_check(token(number), PUBLIC)) == "hub_unavailable"
    rogue.always(FACTS)
    assert code(await rogue_client.whoami(token(0))) == "WhoAmI"
    assert code(await rogue_client.auth_check(token(99), PUBLIC)) == "Allowed"


async def test_tokens_that_are_limited_one_by_one_silence_nobody_else(
    rogue: RawEngine, rogue_client: HubClient
) -> None:
    """As long as anybody is answered in between, with a yes or a no, it is not the address."""
    for number in range(20):
        rogue.then(*[busy()] * (SEVERAL - 1), raw(whole(401, b"{}")) if number % 2 else FACTS)
        for other in range(SEVERAL - 1):
            assert code(await rogue_client.whoami(token(number * 10 + other))) == "hub_unavailable"
        assert code(await rogue_client.whoami(token(number * 10 + 9))) in ("WhoAmI", "invalid_api_key")


async def test_several_in_a_row_silence_everybody_who_is_not_known(
    rogue: RawEngine, rogue_client: HubClient
) -> None:
    """They are told as long as the Hub said, and nothing is asked; other questions go on."""
    await limit(rogue, rogue_client)
    for number in range(1, 50):
        denied = await rogue_client.whoami(token(number))
        assert isinstance(denied, Denied)
        assert (denied.code, denied.retry_after, denied.own) == ("hub_unavailable", SILENCE, False)
    assert len(rogue.requests) == SEVERAL
    rogue.always(FACTS)
    assert code(await rogue_client.auth_check(token(0), PUBLIC)) == "Allowed"


async def test_one_at_a_time_finds_out_when_it_is_over(
    rogue: RawEngine, rogue_client: HubClient, clock: Clock
) -> None:
    """However many come. Its yes or no is everybody's, long before the time that the Hub named."""
    await limit(rogue, rogue_client)
    go = asyncio.Event()

    async def held(_: Received, connection: Connection) -> None:
        await go.wait()
        connection.send(whole(401, b"{}"))

    rogue.always(held)
    clock.advance(2)
    asking = [asyncio.create_task(rogue_client.whoami(token(number))) for number in range(1, 50)]
    done, probing = await asyncio.wait(asking, timeout=5, return_when=asyncio.FIRST_COMPLETED)
    while len(probing) > 1:
        more, probing = await asyncio.wait(probing, timeout=5, return_when=asyncio.FIRST_COMPLETED)
        done |= more
    assert {code(one.result()) for one in done} == {"hub_unavailable"}
    go.set()
    assert [code(await one) for one in probing] == ["invalid_api_key"]
    assert len(rogue.requests) == SEVERAL + 1
    rogue.always(FACTS)
    assert {code(await rogue_client.whoami(token(number))) for number in range(100, 120)} == {"WhoAmI"}
    # Who was told by the Hub itself keeps the silence that was asked of them.
    assert code(await rogue_client.whoami(token(0))) == "hub_unavailable"


async def test_a_limit_that_stays_is_asked_about_ever_more_seldom(
    rogue: RawEngine, rogue_client: HubClient, clock: Clock
) -> None:
    """Never more than once a second, and few times in all, however many callers come in each."""
    await limit(rogue, rogue_client)
    asked_at: list[int] = []
    for tenth in range(SILENCE * 10):
        before = len(rogue.requests)
        for number in range(3):
            assert code(await rogue_client.whoami(token(1_000 + tenth * 3 + number))) == "hub_unavailable"
        asked_at += [tenth] * (len(rogue.requests) - before)
        clock.advance(0.1)
    pauses = [later - sooner for sooner, later in itertools.pairwise(asked_at)]
    assert min(pauses) >= 10
    assert max(pauses) <= LONGEST_PROBING * 10 + 1
    assert 5 <= len(asked_at) <= 10
    rogue.always(FACTS)
    clock.advance(LONGEST_PROBING + 1)
    assert code(await rogue_client.whoami(token(1))) == "WhoAmI"


async def test_a_hub_that_fails_while_it_limits(
    rogue: RawEngine, rogue_client: HubClient, clock: Clock
) -> None:
    """A failure shows nothing about the limit; the next one asks, and the Hub's own breaker bounds them."""
    await limit(rogue, rogue_client)
    clock.advance(2)
    rogue.always(raw(whole(503, b"")))
    for number in range(1, 50):
        assert code(await rogue_client.whoami(token(number))) == "hub_unavailable"
    assert len(rogue.requests) < SEVERAL + 10
    rogue.always(FACTS)
    clock.advance(LONGEST_PROBING + 30)
    assert code(await rogue_client.whoami(token(99))) == "WhoAmI"


async def test_the_log_tells_of_the_address_once(
    rogue: RawEngine, rogue_client: HubClient, clock: Clock
) -> None:
    """When it is found limited, and when it is not any more."""
    with structlog.testing.capture_logs() as lines:
        await limit(rogue, rogue_client)
        for number in range(1, 10):
            await rogue_client.whoami(token(number))
        clock.advance(2)
        rogue.always(FACTS)
        await rogue_client.whoami(token(99))
    assert [line["log_level"] for line in lines] == ["warning", "info"]
    assert "address" in lines[0]["event"]


async def test_whose_token_is_limited_does_not_stop_a_new_caller(edge: Edge) -> None:
    """Before, one 429 of whoami was 503 for everybody who came after it."""
    edge.hub.state.set_down("429", times=1, paths="*whoami*")
    first = await edge.chat(PUBLIC_MODEL, "hf_demo_unknown")
    assert (first.status, first.code, first.header("Retry-After")) == (503, "hub_unavailable", "55")
    assert (await edge.chat(PUBLIC_MODEL, ALICE)).status == 200


async def test_a_crowd_at_a_limited_address_hardly_asks_and_hurts_nobody_known(edge: Edge) -> None:
    """One after the other: three are told by the Hub, the rest by us, with the Hub's own time."""
    assert (await edge.chat(PUBLIC_MODEL, ALICE)).status == 200
    edge.hub.state.set_down("429", paths="*whoami*")
    edge.hub.log.clear()
    crowd = 100
    for number in range(crowd):
        answer = await edge.chat(PUBLIC_MODEL, f"hf_crowd_{number:03}")
        assert (answer.status, answer.code) == (503, "hub_unavailable")
        assert 1 <= int(str(answer.header("Retry-After"))) <= 55
        assert (await edge.chat(PUBLIC_MODEL, ALICE)).status == 200
    assert SEVERAL <= len(edge.hub_calls()) <= SEVERAL + crowd // 10
    assert await edge.metric("hubgate_hub_up") == 1
