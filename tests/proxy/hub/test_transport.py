"""When the Hub is away, slow, hostile or asks for silence: 503, and the token goes nowhere else."""

import pytest
import structlog

from hubgate.demo.hub import DemoHub
from hubgate.proxy.errors import Denied
from hubgate.proxy.hub.breaker import THRESHOLD
from hubgate.proxy.hub.client import HubClient
from hubgate.proxy.hub.cooldown import MAXIMUM
from hubgate.proxy.hub.schemas import Snapshot
from hubgate.proxy.hub.transport import MAX_ANSWER
from hubgate.proxy.metrics.registry import Metrics
from hubgate.wire.secret import Secret
from tests.fakes.answers import chunk, dies, head, raw, silent, whole
from tests.fakes.clock import Clock
from tests.fakes.engine import LOCAL, Answer, RawEngine
from tests.fakes.hub_client import BASE, PUBLIC, MakeClient, code, in_history

CANARY = "hf_canary4711"
OTHER = Secret("hf_other4711")
TOKEN = Secret(CANARY)
MODEL = (
    b'{"id":"demo/tiny-llama","sha":"' + b"a" * 40 + b'","siblings":[{"rfilename":"adapter_config.json"}]}'
)


async def everything(client: HubClient) -> set[str]:
    """What every kind of question gets."""
    return {
        code(await client.whoami(TOKEN)),
        code(await client.auth_check(TOKEN, BASE)),
        code(await client.snapshot(TOKEN, BASE)),
        code(await client.refs(TOKEN, BASE)),
        code(await in_history(client, TOKEN, BASE, "a" * 40)),
        code(await client.reads_only(TOKEN, BASE)),
    }


@pytest.mark.parametrize("mode", ["500", "502", "503", "504", "disconnect"])
async def test_a_broken_hub_is_unavailable(client: HubClient, hub: DemoHub, mode: str) -> None:
    """An error of the Hub's own is never a denial and never leave."""
    hub.state.set_down(mode)
    assert await everything(client) == {"hub_unavailable"}
    hub.state.set_down(None)
    assert code(await client.auth_check(Secret("hf_demo_bob"), BASE)) == "Allowed"


async def test_a_hub_that_hangs_is_unavailable(hub: DemoHub, make_client: MakeClient) -> None:
    """A question that gets no answer in time is given up."""
    hub.state.set_down("hang")
    assert await everything(make_client(hub.endpoint, timeout=0.1)) == {"hub_unavailable"}


async def test_no_hub_at_all(rogue: RawEngine, rogue_client: HubClient, metrics: Metrics) -> None:
    """Nobody listening is an outage, and counted as a question without a status."""
    await rogue.down()
    assert await everything(rogue_client) == {"hub_unavailable"}
    assert b'status="error"' in metrics.expose()


@pytest.mark.parametrize(
    "answer",
    [
        dies(),
        raw(b"hello\r\n\r\n", close=True),
        raw(whole(200, b"")),
        raw(whole(200, b"{")),
        raw(whole(200, b"null")),
        raw(whole(200, b'{"id": 5, "name": [], "sha": 7}')),
        raw(whole(200, b'{"id": "\xff"}')),
        raw(whole(200, b'{"id":"demo/tiny-llama","sha":"main","name":5}')),
        raw(head(200, [("Content-Length", "100")]) + b"{", close=True),
        raw(head(200, [("Transfer-Encoding", "chunked")]) + b"zz\r\n", close=True),
        raw(whole(204, b"")),
        raw(whole(418, b"{}")),
        raw(whole(400, b"{}")),
        raw(head(302, [("Content-Length", "0")])),
    ],
)
async def test_nonsense_is_unavailable(rogue: RawEngine, rogue_client: HubClient, answer: Answer) -> None:
    """An answer outside the table is no denial; only auth-check's bare 200 means yes."""
    rogue.always(answer)
    answers = await everything(rogue_client)
    # Refs without branches allow nothing, and whoever may write is refused.
    assert answers - {"Allowed", "Refs", "insufficient_scope"} == {"hub_unavailable"}


async def test_a_vast_answer_is_not_read(rogue: RawEngine, rogue_client: HubClient) -> None:
    """The Hub cannot fill the proxy's memory."""
    rogue.always(
        raw(head(200, [("Transfer-Encoding", "chunked")]), chunk(b" " * (MAX_ANSWER + 1)), chunk(b""))
    )
    assert code(await rogue_client.whoami(TOKEN)) == "hub_unavailable"


@pytest.mark.parametrize(
    "location",
    [
        "http://{sink}/api/models/demo/tiny-llama/auth-check",
        "//{sink}/api/models/demo/tiny-llama/auth-check",
        "https://{hub}/api/models/demo/tiny-llama/auth-check",
        "http://{hub}@{sink}/api/models/demo/tiny-llama/auth-check",
        "http://[",
        "http://[::1/",
        "",
        "/",
        "/api/models/demo/tiny-llama",
        "/api/models/../../x/auth-check",
        "/api/models/a/b--c/auth-check",
        "/api/models/a/b/auth-check?x=1",
    ],
)
async def test_redirects_never_leave_the_hub(
    rogue: RawEngine, rogue_client: HubClient, hub: DemoHub, location: str
) -> None:
    """A redirect to anywhere but this Hub's own auth-check is an outage, and its target hears nothing."""
    target = location.format(sink=hub.endpoint.removeprefix("http://"), hub=f"{LOCAL}:{rogue.port}")
    rogue.always(raw(head(307, [("Location", target), ("Content-Length", "0")])))
    assert await everything(rogue_client) == {"hub_unavailable"}
    assert len(rogue.requests) == 6
    assert len(hub.log) == 0


async def test_a_config_that_was_moved_without_a_word_where_is_an_outage(
    rogue: RawEngine, rogue_client: HubClient
) -> None:
    """A redirect that names no target is not followed to anywhere."""
    rogue.then(raw(whole(200, MODEL)))
    rogue.always(raw(head(307, [("Content-Length", "0")])))
    assert code(await rogue_client.snapshot(TOKEN, BASE)) == "hub_unavailable"
    assert len(rogue.requests) == 2


async def test_a_target_is_asked_for_as_the_hub_wrote_it(rogue: RawEngine, rogue_client: HubClient) -> None:
    """A config on another path of the Hub is read there, and no escape in its path or query is rewritten."""
    target = "/files/a%40b%2fc?cursor=%3a%2B~"
    rogue.then(
        raw(whole(200, MODEL)),
        raw(head(307, [("Location", target), ("Content-Length", "0")])),
        raw(whole(200, b'{"base_model_name_or_path":"demo/tiny-llama"}')),
    )
    found = await rogue_client.snapshot(TOKEN, BASE)
    assert found == Snapshot(BASE.at("a" * 40), adapter=True, base="demo/tiny-llama")
    assert rogue.requests[2].target == target


@pytest.mark.parametrize(
    ("link", "targets"),
    [
        ('<http://{hub}/next!?cursor=%3d>; rel="next"', ["/next!?cursor=%3d"]),
        ('</prev>; rel="prev", </next> ; rel="next"', ["/next"]),
        ('<>; rel="next"', []),
        ('</prev>; rel="prev"', []),
    ],
)
async def test_a_history_goes_on_where_the_hub_says(
    rogue: RawEngine, rogue_client: HubClient, link: str, targets: list[str]
) -> None:
    """The next page is the one that is linked, to the letter; where none is, the history is over."""
    said = link.format(hub=f"{LOCAL}:{rogue.port}")
    rogue.then(raw(head(200, [("Link", said), ("Content-Length", "2")]) + b"[]"))
    rogue.always(raw(whole(200, b"[]")))
    assert await in_history(rogue_client, TOKEN, BASE, "a" * 40) is False
    asked = [request.target for request in rogue.requests]
    assert asked == [f"/api/models/{BASE.id}/commits/main", *targets]


@pytest.mark.parametrize("location", ["http://{sink}/x", "//{sink}/x", "http://[", "/same/again"])
async def test_an_adapters_config_is_read_from_the_hub_alone(
    rogue: RawEngine, rogue_client: HubClient, hub: DemoHub, location: str
) -> None:
    """The config may lie on another path of the Hub; elsewhere, or in circles, it is not followed."""
    target = location.format(sink=hub.endpoint.removeprefix("http://"))
    rogue.always(raw(head(307, [("Location", target), ("Content-Length", "0")])))
    rogue.then(raw(whole(200, MODEL)))
    assert code(await rogue_client.snapshot(TOKEN, BASE)) == "hub_unavailable"
    assert len(hub.log) == 0
    assert len(rogue.requests) <= 4


async def test_pages_are_followed_on_the_hub_alone(
    rogue: RawEngine, rogue_client: HubClient, hub: DemoHub
) -> None:
    """A next page on another host is not asked for."""
    link = [("Link", f'<{hub.endpoint}/api/next>; rel="next"'), ("Content-Length", "2")]
    rogue.always(raw(head(200, link) + b"[]"))
    assert await in_history(rogue_client, TOKEN, BASE, "a" * 40) is False
    assert len(hub.log) == 0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([("Retry-After", "7")], 7),
        ([("RateLimit", '"api";r=0;t=55')], 55),
        ([("Retry-After", "7"), ("RateLimit", '"api";r=0;t=55')], 7),
        ([("Retry-After", "soon"), ("RateLimit", '"api";r=0;t=55')], 55),
        ([], 10),
        ([("Retry-After", "999999999")], MAXIMUM),
        ([("RateLimit", '"api";r=0;t=99999999')], MAXIMUM),
        ([("Retry-After", "\xb2")], 10),
        ([("Retry-After", "-5")], 10),
    ],
)
async def test_a_429_is_obeyed(
    rogue: RawEngine, rogue_client: HubClient, clock: Clock, headers: list[tuple[str, str]], seconds: int
) -> None:
    """For as long as the Hub asks for, it is asked nothing; the caller is told when to come back."""
    rogue.then(raw(head(429, [*headers, ("Content-Length", "0")])))
    first = await rogue_client.auth_check(TOKEN, PUBLIC)
    assert isinstance(first, Denied)
    assert (first.code, first.retry_after) == ("hub_unavailable", seconds)
    clock.advance(seconds - 0.5)
    second = await rogue_client.auth_check(TOKEN, PUBLIC)
    assert isinstance(second, Denied)
    assert (second.code, second.retry_after) == ("hub_unavailable", 1)
    assert len(rogue.requests) == 1
    clock.advance(0.5)
    rogue.always(raw(whole(200, b"{}")))
    assert code(await rogue_client.auth_check(TOKEN, PUBLIC)) == "Allowed"


async def test_another_429_silences_that_token_alone(rogue: RawEngine, rogue_client: HubClient) -> None:
    """Other questions are counted per account: nobody else is held up, whatever that account asks."""
    rogue.then(raw(head(429, [("Retry-After", "7"), ("Content-Length", "0")])))
    rogue.always(raw(whole(200, b"{}")))
    first = await rogue_client.auth_check(TOKEN, PUBLIC)
    assert isinstance(first, Denied)
    assert first.own
    again = await rogue_client.refs(TOKEN, PUBLIC)
    assert isinstance(again, Denied)
    assert again.own
    assert len(rogue.requests) == 1
    assert code(await rogue_client.auth_check(OTHER, PUBLIC)) == "Allowed"


@pytest.mark.parametrize("fault", [raw(whole(500, b"")), raw(whole(503, b"")), dies()])
async def test_a_hub_that_fails_again_and_again_is_not_asked(
    rogue: RawEngine, rogue_client: HubClient, clock: Clock, metrics: Metrics, fault: Answer
) -> None:
    """After failures in a row there is 503 at once and a time to come back, until an answer comes."""
    rogue.always(fault)
    for _ in range(THRESHOLD):
        assert code(await rogue_client.auth_check(TOKEN, PUBLIC)) == "hub_unavailable"
    assert b"hubgate_hub_up 0.0" in metrics.expose()
    asked = len(rogue.requests)
    for _ in range(20):
        denied = await rogue_client.auth_check(OTHER, PUBLIC)
        assert isinstance(denied, Denied)
        assert denied.code == "hub_unavailable"
        assert 1 <= (denied.retry_after or 0) <= 1.25
    assert len(rogue.requests) == asked
    clock.advance(2)
    rogue.always(raw(whole(200, b"{}")))
    assert code(await rogue_client.auth_check(TOKEN, PUBLIC)) == "Allowed"
    assert b"hubgate_hub_up 1.0" in metrics.expose()


async def test_the_log_tells_when_a_question_is_no_longer_asked_and_when_again(
    rogue: RawEngine, rogue_client: HubClient, clock: Clock
) -> None:
    """One line when the Hub is given up and one when it is back, each with the kind of question."""
    with structlog.testing.capture_logs() as lines:
        rogue.always(dies())
        for _ in range(THRESHOLD + 5):
            await rogue_client.auth_check(TOKEN, PUBLIC)
        assert [(line["log_level"], line["call"]) for line in lines] == [("warning", "auth-check")]
        clock.advance(2)
        rogue.always(raw(whole(200, b"{}")))
        await rogue_client.auth_check(TOKEN, PUBLIC)
    assert [(line["log_level"], line["call"]) for line in lines[1:]] == [("info", "auth-check")]


async def test_a_hub_below_a_path_is_asked_below_it(rogue: RawEngine, make_client: MakeClient) -> None:
    """Where the Hub's address has a path, a link of its own leads to the same page, with that path once."""
    address = f"http://{LOCAL}:{rogue.port}/hub"
    link = ("Link", f'<{address}/next>; rel="next"')
    rogue.then(raw(head(200, [link, ("Content-Length", "2")]) + b"[]"))
    rogue.always(raw(whole(200, b"[]")))
    assert await in_history(make_client(address), TOKEN, BASE, "a" * 40) is False
    assert rogue.requests[1].target == "/hub/next"


@pytest.mark.parametrize(("status", "kind"), [(499, "HubResponse"), (500, "hub_unavailable")])
async def test_an_error_of_the_hubs_own_is_no_answer(
    rogue: RawEngine, rogue_client: HubClient, status: int, kind: str
) -> None:
    """From 500 on nobody has to read what came (RFC 9110, section 15.6)."""
    rogue.always(raw(whole(status, b"{}")))
    assert code(await rogue_client._transport.ask("refs", "/refs", TOKEN)) == kind


@pytest.mark.parametrize("answer", [401, 403, 404, 429, 418, 302, 499])
async def test_a_no_is_no_failure(rogue: RawEngine, rogue_client: HubClient, answer: int) -> None:
    """However often the Hub refuses, it is there."""
    rogue.always(raw(head(answer, [("Retry-After", "0"), ("Content-Length", "0")])))
    for _ in range(THRESHOLD * 2):
        await rogue_client.auth_check(TOKEN, PUBLIC)
    assert len(rogue.requests) == THRESHOLD * 2


async def test_a_vast_repo_is_no_outage(rogue: RawEngine, rogue_client: HubClient) -> None:
    """Whoever owns a repo whose file list is too large cannot stop the questions of others by it."""
    rogue.always(
        raw(head(200, [("Transfer-Encoding", "chunked")]), chunk(b" " * (MAX_ANSWER + 1)), chunk(b""))
    )
    for _ in range(THRESHOLD):
        assert code(await rogue_client.snapshot(TOKEN, BASE)) == "hub_unavailable"
    rogue.always(raw(whole(200, b'{"id":"demo/tiny-llama","sha":"' + b"a" * 40 + b'"}')))
    assert code(await rogue_client.snapshot(OTHER, BASE)) == "Snapshot"


async def test_one_kind_of_question_fails_alone(client: HubClient, hub: DemoHub) -> None:
    """While only auth-check is away, whoami goes on."""
    hub.state.set_down("503", paths="*/auth-check")
    for _ in range(THRESHOLD + 1):
        assert code(await client.auth_check(Secret("hf_demo_bob"), BASE)) == "hub_unavailable"
        assert code(await client.whoami(Secret("hf_demo_bob"))) == "WhoAmI"


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (whole(200, b"{}"), "insufficient_scope"),
        (whole(403, b'{"error":"You may not write."}'), "Allowed"),
        (head(403, [("X-Error-Message", "no"), ("Content-Length", "0")]), "Allowed"),
        (whole(403, b""), "insufficient_scope"),
        (whole(403, b"<html>blocked</html>"), "insufficient_scope"),
        (whole(404, b"{}"), "insufficient_scope"),
        (whole(401, b"{}"), "invalid_api_key"),
        (whole(204, b""), "hub_unavailable"),
        (whole(418, b"{}"), "hub_unavailable"),
        (whole(500, b"{}"), "hub_unavailable"),
        (
            head(307, [("Location", "/api/models/a/b/auth-check/write"), ("Content-Length", "0")]),
            "hub_unavailable",
        ),
        (head(429, [("Content-Length", "0")]), "hub_unavailable"),
    ],
)
async def test_only_a_plain_no_shows_that_a_token_reads_only(
    rogue: RawEngine, rogue_client: HubClient, answer: bytes, verdict: str
) -> None:
    """A token may write if the Hub says yes, and counts as if it might if the Hub says anything odd."""
    rogue.always(raw(answer))
    assert code(await rogue_client.reads_only(TOKEN, PUBLIC)) == verdict
    assert rogue.requests[0].target == f"/api/models/{PUBLIC.id}/auth-check/write"


async def test_the_token_stands_in_one_header(rogue: RawEngine, rogue_client: HubClient) -> None:
    """The token goes out as `Authorization` and nowhere else, not in the target and not twice."""
    rogue.always(raw(whole(200, b"{}")))
    await everything(rogue_client)
    for sent in rogue.requests:
        assert sent.header("authorization") == f"Bearer {CANARY}"
        assert sent.raw.count(CANARY.encode()) == 1


@pytest.mark.parametrize("reason", ["x" * 5000, "a\x1b[31mb", "", "r\xe9ason"])
async def test_the_hubs_words_are_kept_short_and_printable(
    rogue: RawEngine, rogue_client: HubClient, reason: str
) -> None:
    """What the Hub says is passed on without control characters, and not at any length."""
    body = f'{{"error": {reason!r}}}'.replace("'", '"').replace("\\x", "\\u00").encode()
    rogue.always(raw(whole(403, body)))
    denied = await rogue_client.auth_check(TOKEN, BASE)
    assert isinstance(denied, Denied)
    assert denied.code == "access_denied"
    assert denied.message.isprintable()
    assert len(denied.message) < 400


async def test_a_hub_that_says_nothing(rogue: RawEngine, make_client: MakeClient) -> None:
    """A Hub that accepts and says nothing is given up after the timeout."""
    rogue.always(silent())
    client = make_client(f"http://{LOCAL}:{rogue.port}", timeout=0.1)
    assert await everything(client) == {"hub_unavailable"}


async def test_a_repo_that_answers_under_another_name(rogue: RawEngine, rogue_client: HubClient) -> None:
    """A commit is never taken from a repo other than the one that access was checked for."""
    rogue.always(raw(whole(200, MODEL)))
    denied = await rogue_client.snapshot(TOKEN, PUBLIC)
    assert isinstance(denied, Denied)
    assert (denied.code, denied.param) == ("model_not_found", "model")
    assert "demo/tiny-llama" in denied.message


@pytest.mark.parametrize(("extra", "meaning"), [(0, "WhoAmI"), (1, "hub_unavailable")])
async def test_how_long_an_answer_may_be(
    rogue: RawEngine, rogue_client: HubClient, extra: int, meaning: str
) -> None:
    """A good answer of 4 MiB is read, and one of a byte more is not, however good."""
    facts = b'{"id":"1","name":"alice"}'
    rogue.always(raw(whole(200, facts.ljust(MAX_ANSWER + extra))))
    assert code(await rogue_client.whoami(TOKEN)) == meaning


async def test_an_endless_history_holds_nothing(rogue: RawEngine, rogue_client: HubClient) -> None:
    """A commit that is not found on the first fifty pages is not served, and no more are asked for."""
    link = b'HTTP/1.1 200 OK\r\nLink: </again>; rel="next"\r\nContent-Length: 2\r\n\r\n[]'
    rogue.always(raw(link))
    assert await in_history(rogue_client, TOKEN, BASE, "a" * 40) is False
    assert len(rogue.requests) == 50


@pytest.mark.parametrize(("status", "told"), [(403, "access_denied"), (404, "model_not_found")])
async def test_a_config_that_is_withheld_is_a_refusal(
    rogue: RawEngine, rogue_client: HubClient, status: int, told: str
) -> None:
    """A repo whose list of files can be read, and its adapter_config.json cannot."""
    rogue.then(raw(whole(200, MODEL)), raw(head(status, [("Content-Length", "0")])))
    assert code(await rogue_client.snapshot(TOKEN, BASE)) == told
    assert len(rogue.requests) == 2
