"""What belongs to one caller goes nowhere else: not along a redirect, not in a cookie, not for another."""

from pathlib import Path
from unittest.mock import patch

import pytest
from aiohttp import web

from hubgate.backend.engines.client import EngineClient, EngineError, new_session
from hubgate.demo.catalog import Token
from hubgate.demo.hub import DemoHub
from hubgate.wire.keygen import generate_supervisor
from tests.backend.harness import running
from tests.e2e.scanner import Scanner
from tests.fakes.answers import head, raw
from tests.fakes.backend import FakeBackend
from tests.fakes.engine import LOCAL, RawEngine
from tests.fakes.running_proxy import ALICE, BASE, BOB, MISSING, PRIVATE, PUBLIC, Edge
from tests.threats.recorder import Heard, Recorder
from tests.threats.sink import Sink
from tests.threats.stack import Stack

REDIRECTS = (301, 302, 303, 307, 308)
CANARY = "hf_canary_service_8Jd02kfQ"
# Which question is answered with a redirect, and a model whose use asks it.
QUESTIONS = {
    "whoami-v2": BASE,
    "auth-check": BASE,
    "/revision/": PUBLIC,
    "adapter_config.json": PUBLIC,
    "/commits/": PUBLIC + "@{sha}",
    "/refs": PUBLIC + "@v1",
}


@pytest.mark.parametrize("question", QUESTIONS)
async def test_row_25_a_redirect_of_the_hubs_carries_nothing_away(tmp_path: Path, question: str) -> None:
    """Any question that the Hub answers with a redirect to elsewhere is 503; there nobody even connects."""
    settings = {"models": {"revisions": ["main", "tags"]}}
    async with Sink.start() as sink:
        with Recorder().listening() as recorder:
            async with Edge.start(tmp_path, settings) as edge:
                model = QUESTIONS[question].format(sha=edge.hub.state.sha(PUBLIC))
                for status in REDIRECTS:
                    away = sink.redirect(status)
                    recorder.instead = lambda heard, away=away: away if question in heard.path else None  # type: ignore[misc]
                    answer = await edge.chat(model, ALICE)
                    assert (answer.status, answer.code) == (503, "hub_unavailable")
                    assert sink.url.encode() not in answer.raw
                assert sum(question in one.path for one in recorder.heard) == len(REDIRECTS)
                assert edge.engine.requests == []
                recorder.instead = lambda _: None
                revision_known = "v1" not in model
                assert (await edge.chat(model, ALICE)).status == (200 if revision_known else 403)
        assert sink.connections == 0


async def test_row_25_a_redirect_of_the_engines_carries_nothing_away(edge: Edge) -> None:
    """An engine that redirects is 502: neither the prompt nor the grant goes where it points."""
    async with Sink.start() as sink:
        for status in REDIRECTS:
            location = [("Location", f"{sink.url}/x"), ("Content-Length", "0")]
            edge.engine.then(raw(head(status, location)))
            answer = await edge.chat()
            assert (answer.status, answer.code) == (502, "upstream_error")
            assert answer.header("Location") is None
            assert sink.url.encode() not in answer.raw
        assert sink.connections == 0


async def test_row_25_a_redirect_of_the_control_api_carries_nothing_away(tmp_path: Path) -> None:
    """Neither the scoped token nor a control grant follows a backend that answers with a redirect."""
    async with Sink.start() as sink:

        async def ensure(_: FakeBackend, __: web.Request) -> web.StreamResponse:
            return sink.redirect(307)

        with patch.object(FakeBackend, "_ensure", ensure):
            async with Edge.start(tmp_path) as edge:
                answer = await edge.chat(PUBLIC, ALICE)
                assert (answer.status, answer.code) == (503, "no_upstream")
                await edge.backend.down()
                async with RawEngine.start() as impostor:
                    await impostor.down()
                    impostor.port = edge.backend.port
                    impostor.always(raw(head(307, [("Location", sink.url), ("Content-Length", "0")])))
                    await impostor.up()
                    await edge.until_down()
                    await impostor.received(2)
                    assert (await edge.chat(PUBLIC, ALICE)).code == "no_upstream"
        assert sink.connections == 0


async def test_row_25_the_supervisor_follows_no_redirect_either() -> None:
    """A control grant of the supervisor's stays with the engine that it is for."""
    async with Sink.start() as sink, RawEngine.start() as engine, new_session() as session:
        engine.always(raw(head(307, [("Location", sink.url), ("Content-Length", "0")])))
        url = f"http://{LOCAL}:{engine.port}"
        client = EngineClient(session, generate_supervisor(), url, engine="gpu-0/0", boot="b")
        with pytest.raises(EngineError):
            await client.status()
        with pytest.raises(EngineError):
            await client.load("a/b@" + "0" * 40, Path("/x"))
        assert sink.connections == 0


async def test_row_25_downloads_carry_the_token_to_the_hub_alone(tmp_path: Path) -> None:
    """Large files come from another origin by a redirect: the token does not go along."""
    with Recorder().listening() as recorder:
        async with DemoHub.start() as hub, running(tmp_path, hub) as backend:
            await backend.ready(backend.sha(BASE), backend.sha(PRIVATE))
    files = [one for one in recorder.heard if one.origin == "files"]
    assert len(files) == 2  # weights of the base, and of the adapter
    assert all(one.download for one in files)
    for one in files:
        assert "authorization" not in one.headers
        assert ALICE not in str(one)
    assert {one.token for one in recorder.heard if one.origin == "hub"} == {ALICE}


@pytest.mark.parametrize("question", ["/revision/", "/resolve/"])
async def test_row_25_a_hub_that_redirects_a_download_learns_nothing_elsewhere(
    tmp_path: Path, question: str
) -> None:
    """Whatever the Hub's own client follows, the token does not go along, and nothing is loaded."""
    async with Sink.start() as sink:

        def away(heard: Heard) -> web.Response | None:
            return sink.redirect(307) if question in heard.path else None

        with Recorder(instead=away).listening() as recorder:
            async with DemoHub.start() as hub, running(tmp_path, hub) as backend:
                failed = await backend.failed(backend.sha(BASE))
        assert failed.code in ("not_found", "error", "hub_unavailable")
        assert {one.token for one in recorder.heard} == {ALICE}
        assert ALICE.encode() not in sink.received
        assert b"uthorization" not in sink.received
        assert list((tmp_path / "store").glob("[!.]*/*/*")) == []


async def test_row_26_a_cookie_of_one_call_is_on_no_other(tmp_path: Path) -> None:
    """What Hub and engine set on alice's call is absent from bob's, and never comes back to a caller."""
    body = b'{"model":"m"}'
    with Recorder(cookies=True).listening() as recorder:
        async with Edge.start(tmp_path) as edge:
            theirs = [("Set-Cookie", "engine=alice; Path=/"), ("Content-Type", "application/json")]
            edge.engine.always(raw(head(200, [*theirs, ("Content-Length", str(len(body)))]) + body))
            for token, model in ((ALICE, BASE), (ALICE, PUBLIC), (BOB, BASE), (BOB, PUBLIC), (ALICE, BASE)):
                answer = await edge.chat(model, token)
                assert answer.status == 200
                assert answer.header("Set-Cookie") is None
    assert len(edge.engine.requests) == 5
    assert all(sent.header("cookie") is None for sent in edge.engine.requests)
    assert {one.token for one in recorder.heard} == {ALICE, BOB}
    assert not [one for one in recorder.heard if "cookie" in one.headers]


async def test_row_26_a_download_has_no_cookie_of_anothers(tmp_path: Path) -> None:
    """The Hub's client keeps cookies; as each download has a process of its own, only for that caller."""
    with Recorder(cookies=True).listening() as recorder:
        async with DemoHub.start() as hub, running(tmp_path, hub) as backend:
            await backend.ready(backend.sha(BASE), backend.sha(PRIVATE), "alice")
            await backend.ready(backend.sha(BASE), backend.sha(PUBLIC), "bob")
    asked = {(one.token, one.headers.get("cookie", "")) for one in recorder.heard if one.origin == "hub"}
    assert {token for token, _ in asked} == {ALICE, BOB}
    assert {cookie for token, cookie in asked if token == BOB} <= {"", "session=bob"}
    assert {cookie for token, cookie in asked if token == ALICE} <= {"", "session=alice"}


async def test_row_23_the_operators_token_is_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service token that could read all, in both environments: the Hub never sees it for a caller."""
    for name in ("HF_TOKEN", "HF_API_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.setenv(name, CANARY)
    async with Stack.start(tmp_path) as stack:
        stack.hub.state.add_token(CANARY, Token(user="alice", name="service"))  # would open all
        served = await stack.chat(PRIVATE, ALICE)
        assert served.status == 200
        environment = served.json()["environ"]
        assert CANARY not in str(environment)
        assert not [
            name for name in environment if "TOKEN" in name and name != "HF_HUB_DISABLE_IMPLICIT_TOKEN"
        ]
        denied = {
            (BOB, PRIVATE): "model_not_found",
            (BOB, MISSING): "model_not_found",
            ("hf_demo_eve", BASE): "model_gated",
            ("hf_demo_eve", PUBLIC): "model_gated",
            ("hf_nobody_knows", BASE): "invalid_api_key",
            ("", BASE): "invalid_api_key",
            ("none", BASE): "invalid_api_key",
        }
        for (token, model), code in denied.items():
            assert (await stack.chat(model, token)).code == code
        # Straight at the backend, with tokens that a proxy sealed: the download asks as the caller.
        (stack.hub.state.add_repo("alice/second", {"adapter_config.json": b"{}"}, private=True))
        base = stack.backend.sha(BASE)
        assert (
            await stack.backend.failed(base, stack.backend.sha("alice/second"), "bob")
        ).code == "not_found"
    assert len(stack.recorder.of(download=True)) >= 4
    assert {one.token for one in stack.recorder.heard if one.origin == "hub"} == {
        ALICE,
        BOB,
        "hf_demo_eve",
        "hf_nobody_knows",
    }
    assert not [one for one in stack.recorder.heard if CANARY in str(one)]
    assert not Scanner(CANARY).files(tmp_path)
