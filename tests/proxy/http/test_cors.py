"""Scripts of a browser's pages: whose may read answers, and what they are told."""

import pytest

from hubgate.proxy.http.cors import EXPOSED, Cors
from hubgate.proxy.settings import ProxySettings
from tests.cases import each
from tests.fakes.answers import Stream
from tests.fakes.raw import RawAnswer
from tests.fakes.running_proxy import ALICE, BASE, CHAT
from tests.proxy.conftest import StartEdge

APP, OTHER = "https://app.example.com", "https://evil.example.com"


def allowed(answer: RawAnswer) -> str | None:
    """The origin whose scripts may read it; nobody's cookies ever count."""
    assert answer.header("Access-Control-Allow-Credentials") is None
    return answer.header("Access-Control-Allow-Origin")


def preflight(origin: str) -> list[tuple[str, str]]:
    return [
        ("Origin", origin),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "authorization,content-type,x-stainless-os"),
    ]


async def test_off_by_default(start_edge: StartEdge) -> None:
    """Without `listen.cors` nothing is allowed, nothing varies, and OPTIONS is no method."""
    edge = await start_edge()
    for answer in (
        await edge.ask("OPTIONS", CHAT, None, preflight(APP)),
        await edge.ask("GET", "/v1/models", headers=[("Origin", APP)]),
    ):
        assert allowed(answer) is None
        assert answer.header("Vary") is None
    assert (await edge.ask("OPTIONS", CHAT, None, preflight(APP))).status == 405


async def test_row_59_preflights_are_answered_before_authentication(start_edge: StartEdge) -> None:
    """A browser sends them without a token; nobody is asked, no body is sent, nothing is audited."""
    edge = await start_edge({"listen": {"cors": [APP, "tauri://localhost"], "host": "127.0.0.1", "port": 0}})
    for path in (CHAT, "/v1/models", "/v1/models/demo%2Ftiny-llama", "/v1/messages"):
        answer = await edge.ask("OPTIONS", path, None, preflight(APP))
        assert (answer.status, answer.body, allowed(answer)) == (204, b"", APP)
        assert answer.header("Access-Control-Allow-Headers") == "Authorization, *"
        assert answer.header("Access-Control-Allow-Methods") == "GET, HEAD, POST"
        assert answer.header("Vary") == "Origin"
    for origin in (
        OTHER,
        APP + ".evil.com",
        APP + ":8080",
        "http://app.example.com",
        APP.upper(),
        "null",
        "",
    ):
        answer = await edge.ask("OPTIONS", CHAT, None, preflight(origin))
        assert (answer.status, allowed(answer), answer.header("Vary")) == (405, None, "Origin")
    unknown = await edge.ask("OPTIONS", "/pause", None, preflight(APP))
    assert (unknown.status, unknown.code) == (404, "unknown_endpoint")
    assert edge.hub_calls() == []
    assert edge.engine.requests == []


async def test_row_59_every_answer_says_who_may_read_it(start_edge: StartEdge) -> None:
    """Good answers, refusals of each step, streams; and that caches keep them apart."""
    edge = await start_edge({"listen": {"cors": [APP], "host": "127.0.0.1", "port": 0}})
    body = b'{"model": "demo/tiny-llama", "messages": []}'
    mine = [("Origin", APP)]
    answers = [
        await edge.ask("POST", CHAT, ALICE, mine, body),
        await edge.ask("POST", CHAT, None, mine, body),
        await edge.ask("POST", CHAT, ALICE, mine, b"{"),
        await edge.ask("GET", "/nothing", ALICE, mine),
        await edge.ask("GET", "/health", None, mine),
    ]
    edge.engine.always(Stream(2).finish())
    answers.append(await edge.ask("POST", CHAT, ALICE, mine, body[:-1] + b', "stream": true}'))
    assert [answer.status for answer in answers] == [200, 401, 400, 404, 200, 200]
    for answer in answers:
        assert (allowed(answer), answer.header("Vary")) == (APP, "Origin")
        assert answer.header("Access-Control-Expose-Headers") == ", ".join(EXPOSED)
    for headers in ([], [("Origin", OTHER)]):
        answer = await edge.ask("GET", f"/v1/models/{BASE}", ALICE, headers)
        assert (answer.status, allowed(answer), answer.header("Vary")) == (200, None, "Origin")


async def test_row_59_everybody(start_edge: StartEdge) -> None:
    """`*` is written as such, so that no browser adds a cookie or takes an answer for its own origin's."""
    edge = await start_edge({"listen": {"cors": ["*"], "host": "127.0.0.1", "port": 0}})
    for answer in (
        await edge.ask("OPTIONS", CHAT, None, preflight(OTHER)),
        await edge.ask("GET", "/v1/models", headers=[("Origin", "null")]),
        await edge.ask("GET", "/v1/models"),
    ):
        assert (answer.status // 100, allowed(answer), answer.header("Vary")) == (2, "*", None)
    assert (await edge.ask("OPTIONS", CHAT, None)).status == 405  # by no browser


def test_two_origins_in_one_header_are_none() -> None:
    """The header is compared as a whole."""
    cors = Cors([APP])
    assert not cors.allows(f"{APP}, {OTHER}")
    assert not cors.allows(None)
    assert OTHER not in cors.lines(OTHER)


@each(
    "origin",
    [
        "app.example.com",
        APP + "/",
        APP + "/x",
        APP + "?",
        "https://App.example.com",
        APP + ":443",
        "http://localhost:80",
        "https://*.example.com",
        "https://user@example.com",
        "null",
        "",
        APP + "\r\nX: y",
    ],
)
def test_what_no_browser_sends_is_a_fault(origin: str) -> None:
    """It would never match."""
    with pytest.raises(ValueError, match="origin"):
        ProxySettings.model_fields["listen"].annotation(cors=[origin])  # type: ignore[misc]


def test_any_and_some_is_a_fault() -> None:
    """Either everybody, or those who are named."""
    with pytest.raises(ValueError, match="allows every origin"):
        ProxySettings.model_fields["listen"].annotation(cors=["*", APP])  # type: ignore[misc]
