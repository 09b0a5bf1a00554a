"""What is no answer: nested, vast, compressed, for a browser. Bounded, clear, and never a yes or a no."""

import asyncio
import gzip

import pytest

from hubgate.proxy.errors import Denied
from hubgate.proxy.hub.breaker import THRESHOLD
from hubgate.proxy.hub.client import MAX_VERDICT, HubClient
from hubgate.proxy.hub.schemas import MAX_NAME, Snapshot
from hubgate.proxy.hub.transport import MAX_ANSWER
from hubgate.proxy.metrics.registry import Metrics
from hubgate.wire.json_bounds import MAX_ADAPTER_CONFIG, MAX_CONTAINERS, MAX_DEPTH
from hubgate.wire.secret import Secret
from tests.fakes.answers import chunk, head, raw, whole
from tests.fakes.engine import Answer, Connection, RawEngine, Received
from tests.fakes.hub_client import BASE, code, in_history
from tests.fakes.running_proxy import ALICE, BOB, PRIVATE, PUBLIC, Edge

TOKEN = Secret("hf_canary4711")
SHA = "a" * 40
PAGE = b"<!doctype html><title>We are back soon</title>"
REDIRECT = [
    ("Location", "/api/models/a/b/auth-check"),
    ("Content-Type", "text/html"),
    ("Content-Length", "0"),
]
MODEL = (
    b'{"id":"demo/tiny-llama","sha":"' + SHA.encode() + b'","siblings":[{"rfilename":"adapter_config.json"}]'
)


def nested(depth: int, before: bytes = b'{"x":', after: bytes = b"}") -> bytes:
    return before + b"[" * depth + b"]" * depth + after


async def everything(client: HubClient) -> list[str]:
    """What every kind of question gets."""
    return [
        code(await client.whoami(TOKEN)),
        code(await client.auth_check(TOKEN, BASE)),
        code(await client.reads_only(TOKEN, BASE)),
        code(await client.snapshot(TOKEN, BASE)),
        code(await client.refs(TOKEN, BASE)),
        code(await in_history(client, TOKEN, BASE, SHA)),
    ]


@pytest.mark.parametrize("depth", [MAX_DEPTH, 950, 990, 1_000, 1_100, 100_000])
@pytest.mark.parametrize("status", [200, 403, 404])
async def test_a_nested_answer(rogue: RawEngine, rogue_client: HubClient, status: int, depth: int) -> None:
    """Wherever a parser would give up, it is not tried: nobody gets in, and nothing breaks."""
    rogue.always(raw(whole(status, nested(depth))))
    said = await everything(rogue_client)
    assert len(rogue.requests) == 6
    if status == 200:
        assert set(said) == {"hub_unavailable"}
    else:
        assert set(said) <= {"hub_unavailable", "access_denied", "model_not_found", "insufficient_scope"}


async def test_a_nested_part_that_nobody_asks_for(rogue: RawEngine, rogue_client: HubClient) -> None:
    """What is skipped is skipped by the same parser."""
    rogue.always(raw(whole(200, nested(990, MODEL + b',"cardData":'))))
    assert code(await rogue_client.snapshot(TOKEN, BASE)) == "hub_unavailable"
    who = b'{"id":"1","name":"alice","auth":{"accessToken":{"fineGrained":{"scoped":[{"permissions":'
    rogue.always(raw(whole(200, nested(990, who, b"}]}}}}"))))
    assert code(await rogue_client.whoami(TOKEN)) == "hub_unavailable"


@pytest.mark.parametrize(
    "body",
    [
        b'{"id":"1","name":"%s"}' % (b"a" * (MAX_NAME + 1)),
        b'{"id":"%s","name":"a"}' % (b"a" * (MAX_NAME + 1)),
        b'{"id":"1","name":"a","orgs":[{"name":"%s"}]}' % (b"a" * (MAX_NAME + 1)),
        b'{"id":"1","name":"\\ud800"}',
        b'{"id":"1","name":"\xed\xa0\x80"}',
        b'{"id":%s,"name":"a"}' % (b"1" * 5_000),
        b'{"id":"1","name":NaN}',
        b'{"id":"1","name":"a","auth":{"accessToken":[]}}',
        b'{"id":"1","name":"a","orgs":{"name":"acme"}}',
        b"[" + b"[]," * MAX_CONTAINERS + b"[]]",
        b"\xef\xbb\xbf{}",
        '{"id":"1","name":"a"}'.encode("utf-16"),
    ],
)
async def test_an_identity_that_makes_no_sense(
    rogue: RawEngine, rogue_client: HubClient, body: bytes
) -> None:
    """Too long to keep, no text, no number, another type: an outage."""
    rogue.always(raw(whole(200, body)))
    assert code(await rogue_client.whoami(TOKEN)) == "hub_unavailable"


async def test_a_long_number_that_nobody_asks_for(rogue: RawEngine, rogue_client: HubClient) -> None:
    """It is not made into one."""
    rogue.always(raw(whole(200, b'{"id":"1","name":"a","likes":%s}' % (b"1" * 5_000))))
    assert code(await rogue_client.whoami(TOKEN)) == "WhoAmI"


@pytest.mark.parametrize("name", ["x" * 500, "a/b\\u001b[31m", "../x", ""])
async def test_a_name_that_the_hub_never_gives(rogue: RawEngine, rogue_client: HubClient, name: str) -> None:
    """A repo that is said to be called so is not named to the caller."""
    rogue.always(raw(whole(200, f'{{"id":"{name}","sha":"{SHA}"}}'.encode())))
    assert code(await rogue_client.snapshot(TOKEN, BASE)) == "hub_unavailable"


PAGES = [
    whole(200, PAGE, "text/html; charset=utf-8"),
    whole(200, PAGE, "TEXT/HTML"),
    whole(200, PAGE, "application/xhtml+xml"),
    whole(200, b"We are back soon", "text/html"),
    whole(200, b"{}", "text/html"),
    whole(200, b"", "text/html"),
]
ODD = [
    whole(200, PAGE, "text/plain"),
    whole(200, b"\r\n <html>", "application/octet-stream"),
    whole(200, b'{"error":"maintenance"}'),
    whole(200, b" " * (MAX_VERDICT + 1)),
    head(204),
    head(206, [("Content-Length", "0")]),
    head(203, [("Content-Length", "0")]),
]


@pytest.mark.parametrize("answer", PAGES)
async def test_a_page_is_no_answer_to_anything(
    rogue: RawEngine, rogue_client: HubClient, answer: bytes
) -> None:
    """Least of all a yes; and for somebody who may only read, no is none either."""
    rogue.always(raw(answer))
    assert set(await everything(rogue_client)) == {"hub_unavailable"}


@pytest.mark.parametrize("answer", ODD)
async def test_only_an_answer_of_the_hubs_kind_opens(
    rogue: RawEngine, rogue_client: HubClient, answer: bytes
) -> None:
    """Under whatever type it comes."""
    rogue.always(raw(answer))
    assert code(await rogue_client.auth_check(TOKEN, BASE)) == "hub_unavailable"
    assert code(await rogue_client.reads_only(TOKEN, BASE)) == "hub_unavailable"


@pytest.mark.parametrize(
    "answer",
    [
        whole(200, b"{}"),
        whole(200, b""),
        whole(200, b"OK", "text/plain; charset=utf-8"),
        whole(200, b"OK", "text/html; charset=utf-8"),
        whole(200, b"true"),
        head(200, [("Content-Length", "0")]),
        whole(200, b'{"error":null}'),
    ],
)
async def test_a_yes(rogue: RawEngine, rogue_client: HubClient, answer: bytes) -> None:
    """What the Hub, or a server that is compatible with it, can be thought to say."""
    rogue.always(raw(answer))
    assert code(await rogue_client.auth_check(TOKEN, BASE)) == "Allowed"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 418])
async def test_a_firewalls_refusal_is_not_the_hubs(
    rogue: RawEngine, rogue_client: HubClient, status: int
) -> None:
    """It is never remembered as a denial, and does not stop what others ask, however often it comes."""
    rogue.always(raw(whole(status, PAGE, "text/html")))
    for _ in range(THRESHOLD + 1):
        assert set(await everything(rogue_client)) == {"hub_unavailable"}
    assert len(rogue.requests) == 6 * (THRESHOLD + 1)


@pytest.mark.parametrize(("status", "up"), [(403, 0), (429, 1)])
async def test_whether_a_page_shows_that_the_hub_is_there(
    rogue: RawEngine, rogue_client: HubClient, metrics: Metrics, status: int, up: int
) -> None:
    """A page does not, between failures; but a 429 is an answer whatever is below it."""
    fails = raw(whole(503, b""))
    rogue.then(*[fails] * (THRESHOLD - 1), raw(whole(status, PAGE, "text/html")), fails)
    for number in range(THRESHOLD + 1):
        assert code(await rogue_client.auth_check(Secret(f"hf_canary{number}"), BASE)) == "hub_unavailable"
    assert len(rogue.requests) == THRESHOLD + 1
    assert f"hubgate_hub_up {up}.0".encode() in metrics.expose()


async def test_a_429_is_obeyed_whatever_is_below_it(rogue: RawEngine, rogue_client: HubClient) -> None:
    """For its own token, and for as long as it says."""
    said = [("Retry-After", "7"), ("Content-Type", "text/html"), ("Content-Length", str(len(PAGE)))]
    rogue.then(raw(head(429, said) + PAGE))
    for _ in range(2):
        denied = await rogue_client.auth_check(TOKEN, BASE)
        assert isinstance(denied, Denied)
        assert (denied.code, denied.retry_after, denied.own) == ("hub_unavailable", 7, True)
    assert len(rogue.requests) == 1


async def test_the_hubs_word_counts_whatever_is_below_it(rogue: RawEngine, rogue_client: HubClient) -> None:
    """Its errors have a header of their own."""
    word = [("X-Error-Message", "no"), ("Content-Type", "text/html"), ("Content-Length", "0")]
    rogue.always(raw(head(403, word)))
    assert code(await rogue_client.auth_check(TOKEN, BASE)) == "access_denied"


async def test_a_redirect_is_judged_by_where_it_leads(rogue: RawEngine, rogue_client: HubClient) -> None:
    """Servers put a page below it, which nobody reads."""
    rogue.always(raw(head(307, REDIRECT)))
    assert code(await rogue_client.auth_check(TOKEN, BASE)) == "Moved"


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "br", "zstd", "deflate", "gzip, gzip", "x"])
async def test_a_compressed_answer_is_not_unpacked(
    rogue: RawEngine, rogue_client: HubClient, coding: str
) -> None:
    """None is asked for, and a thousand bytes of it may be a million: an outage, and not of one account."""
    body = gzip.compress(b" " * 50_000_000 + b"{}")
    headers = [("Content-Encoding", coding), ("Content-Length", str(len(body)))]
    rogue.always(raw(head(200, headers) + body))
    assert set(await everything(rogue_client)) == {"hub_unavailable"}
    assert {request.header("accept-encoding") for request in rogue.requests} == {"identity"}
    denied = await rogue_client.refs(TOKEN, BASE)
    assert isinstance(denied, Denied)
    assert not denied.own


@pytest.mark.parametrize("most", [MAX_VERDICT, MAX_ANSWER])
async def test_an_endless_answer_is_left_early(rogue: RawEngine, rogue_client: HubClient, most: int) -> None:
    """Little more than what may be read is taken; for the rest nobody waits, and the connection is closed."""
    taken = 0
    left: list[Connection] = []

    async def endless(_: Received, connection: Connection) -> None:
        nonlocal taken
        left.append(connection)
        connection.send(head(200, [("Transfer-Encoding", "chunked"), ("Content-Type", "application/json")]))
        while not connection.left.is_set():
            if connection.unsent == 0:
                taken += 10_000
                connection.send(chunk(b" " * 10_000))
            await asyncio.sleep(0)

    rogue.always(endless)
    ask = rogue_client.auth_check(TOKEN, BASE) if most == MAX_VERDICT else rogue_client.refs(TOKEN, BASE)
    assert code(await ask) == "hub_unavailable"
    await left[0].left.wait()
    assert most < taken < most + 8_000_000  # what the sockets' buffers hold


def serving(config: bytes, content_type: str = "text/plain") -> tuple[Answer, Answer]:
    return raw(whole(200, MODEL + b"}")), raw(whole(200, config, content_type))


@pytest.mark.parametrize(
    "config",
    [
        nested(MAX_DEPTH),
        nested(990),
        nested(100_000),
        b"[" + b"[]," * MAX_CONTAINERS + b"[]]",
        b'{"r":' + b"1" * 5_000 + b"}",
        b'{"r":NaN}',
        b'{"r":"\\ud800"}',
        b'{"r":"\xff"}',
        b'{"r":1e999}',
        b"[]",
        PAGE,
        b" " * MAX_ADAPTER_CONFIG + b"{}",
        b" " * 50_000_000,
    ],
)
async def test_a_config_that_cannot_be_read_is_rejected_for_good(
    rogue: RawEngine, rogue_client: HubClient, config: bytes
) -> None:
    """It is the repo's own file, and will be the same the next time: no outage, nothing to come again for."""
    rogue.then(*serving(config))
    denied = await rogue_client.snapshot(TOKEN, BASE)
    assert isinstance(denied, Denied)
    assert (denied.code, denied.retry_after) == ("adapter_rejected", None)


async def test_a_config_of_the_largest_size_and_depth_is_read(
    rogue: RawEngine, rogue_client: HubClient
) -> None:
    """To the byte."""
    config = nested(MAX_DEPTH - 1, b'{"base_model_name_or_path":"demo/tiny-llama","x":')
    rogue.then(*serving(config.ljust(MAX_ADAPTER_CONFIG)))
    found = await rogue_client.snapshot(TOKEN, BASE)
    assert found == Snapshot(BASE.at(SHA), adapter=True, base="demo/tiny-llama")


async def test_a_page_in_the_place_of_a_config_is_an_outage(
    rogue: RawEngine, rogue_client: HubClient
) -> None:
    """What stands in between goes away, and the file is as it was."""
    rogue.then(*serving(PAGE, "text/html"))
    assert code(await rogue_client.snapshot(TOKEN, BASE)) == "hub_unavailable"
    rogue.then(*serving(b"{}"))
    assert code(await rogue_client.snapshot(TOKEN, BASE)) == "Snapshot"


async def test_a_base_with_an_endless_name_is_none(rogue: RawEngine, rogue_client: HubClient) -> None:
    """What is remembered of a repo is short."""
    rogue.then(*serving(b'{"base_model_name_or_path":"' + b"a" * (MAX_NAME + 1) + b'"}'))
    assert await rogue_client.snapshot(TOKEN, BASE) == Snapshot(BASE.at(SHA), adapter=True, base="")


@pytest.mark.parametrize("config", [nested(990), b" " * 50_000_000])
async def test_a_caller_is_told_that_it_is_for_good(edge: Edge, config: bytes) -> None:
    """422, and nothing about a time to come again; the next request of anybody is served."""
    edge.hub.state.add_repo("demo/odd-lora", {"adapter_config.json": config})
    answer = await edge.chat("demo/odd-lora")
    assert (answer.status, answer.code) == (422, "adapter_rejected")
    assert answer.header("Retry-After") is None
    assert answer.header("x-should-retry") == "false"
    assert (await edge.chat(PUBLIC)).status == 200


@pytest.mark.parametrize("what", ["*/auth-check", "*/revision/*", "*/resolve/*", "*whoami*"])
async def test_a_page_that_answers_for_the_hub_opens_no_private_model(edge: Edge, what: str) -> None:
    """Maintenance of what stands before the Hub: 503, nothing reaches the engine, nothing is remembered."""
    edge.hub.state.set_down("page", paths=what)
    for token in (ALICE, BOB):
        answer = await edge.chat(PRIVATE, token)
        if token == ALICE or what in ("*/auth-check", "*whoami*"):
            assert (answer.status, answer.code) == (503, "hub_unavailable")
            assert answer.header("Retry-After") is not None
        else:
            assert answer.code == "model_not_found"
    assert not edge.engine.requests
    edge.hub.state.set_down(None)
    assert (await edge.chat(PRIVATE, ALICE)).status == 200
    assert (await edge.chat(PRIVATE, BOB)).code == "model_not_found"
