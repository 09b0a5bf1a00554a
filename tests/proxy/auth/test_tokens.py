"""Each kind of token has one defined answer, which says what to make instead and on which page."""

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hubgate.demo.catalog import Token
from hubgate.demo.hub import DemoHub
from tests.cases import each
from tests.fakes.answers import raw, whole
from tests.fakes.engine import RawEngine
from tests.fakes.raw import RawAnswer
from tests.fakes.running_proxy import ALICE, BASE, BOB, PRIVATE, PUBLIC, Edge
from tests.proxy.conftest import StartEdge

OAUTH = {"tokens": {"oauth": "allow"}}
APP = "hf_oauth_demo_alice"


def told(answer: RawAnswer, page: str) -> str:
    """The code of a refusal whose message names the page where tokens are made."""
    assert f"{page}/settings/tokens" in answer.json()["error"]["message"]
    return answer.code


def issue(hub: DemoHub, secret: str = APP, **facts: Any) -> str:
    """Issue alice a token."""
    hub.state.add_token(secret, Token(**{"user": "alice", "name": "tried", **facts}))
    return secret


def app_token(hub: DemoHub, *permissions: str, days: float | None = 1) -> str:
    """A token that alice gave to an app."""
    return issue(hub, role="none", expires_in_days=days, scoped={"alice": permissions})


@each(
    ("token", "status", "code"),
    [
        ("hf_demo_writer", 403, "insufficient_scope"),
        ("hf_demo_old", 403, "token_too_old"),
        ("hf_demo_expired", 401, "token_expired"),
        ("hf_demo_unknown", 401, "invalid_api_key"),
        ("hf_oauth_demo_bob", 403, "insufficient_scope"),
        ("hf_demo_narrow", 403, "insufficient_scope"),
        ("hf_jwt_eyJhbGciOi", 401, "invalid_api_key"),
        ("api_org_abcdefgh", 401, "invalid_api_key"),
        ("sk-abcdefgh", 401, "invalid_api_key"),
        ("!", 401, "invalid_api_key"),
        (None, 401, "invalid_api_key"),
    ],
)
async def test_every_refused_token_is_told_what_to_make(
    edge: Edge, token: str | None, status: int, code: str
) -> None:
    """The message names the page of the configured Hub where the right token is made."""
    answer = await edge.chat(token=token)
    assert (answer.status, told(answer, edge.hub.endpoint)) == (status, code)


@pytest.mark.parametrize(
    ("token", "what"), [("hf_jwt_eyJhbGciOi", "CI job"), ("api_org_abcdefgh", "Organization")]
)
async def test_tokens_of_nobody_ask_the_hub_nothing(edge: Edge, token: str, what: str) -> None:
    """A token that names no person is known by its form, and the Hub never sees it."""
    answer = await edge.chat(token=token)
    assert answer.code == "invalid_api_key"
    assert what in answer.json()["error"]["message"]
    assert edge.hub_calls() == []


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        ({"auth": {"type": "access_token", "accessToken": {"role": "read"}}}, "token_too_old"),
        ({"auth": {"type": "app_token"}}, "insufficient_scope"),
        ({"auth": {"type": "app_token_as_user", "expiresAt": "2999-01-01T00:00:00Z"}}, "insufficient_scope"),
        ({"auth": {}}, "insufficient_scope"),
        ({"type": "org"}, "insufficient_scope"),
        ({"type": "app"}, "insufficient_scope"),
        ({"type": ""}, "insufficient_scope"),
        ({"id": 5}, "hub_unavailable"),
        ({"name": None}, "hub_unavailable"),
    ],
)
async def test_odd_identities_are_refused(start_edge: StartEdge, facts: dict[str, Any], code: str) -> None:
    """An organization, an app, a kind that nobody knew and an answer that makes no sense let nobody in."""
    good = {"type": "access_token", "accessToken": {"role": "read", "createdAt": "2026-11-01T00:00:00Z"}}
    body = {"type": "user", "id": "1", "name": "acme", "auth": good, **facts}
    async with RawEngine.start() as rogue:
        rogue.always(raw(whole(200, msgspec.json.encode(body))))
        edge = await start_edge({"hub": {"endpoint": f"http://127.0.0.1:{rogue.port}"}})
        assert (await edge.ask("GET", "/v1/models")).code == code


@pytest.mark.parametrize("created", [None, "", "yesterday", "2999-01-01T00:00:00Z", "0001-01-01T00:00:00Z"])
async def test_a_token_without_a_believable_date_is_refused(start_edge: StartEdge, created: object) -> None:
    """A creation date that is missing, garbage, or lies in the future or the far past is too old."""
    token = {"role": "read", "createdAt": created}
    body = {"type": "user", "id": "1", "name": "a", "auth": {"type": "access_token", "accessToken": token}}
    async with RawEngine.start() as rogue:
        rogue.always(raw(whole(200, msgspec.json.encode(body))))
        edge = await start_edge({"hub": {"endpoint": f"http://127.0.0.1:{rogue.port}"}})
        assert (await edge.ask("GET", "/v1/models")).code == "token_too_old"


@pytest.mark.parametrize(
    ("fine", "extra", "good"),
    [
        ({"canReadGatedRepos": True, "global": [], "scoped": []}, [], True),
        ({"global": [], "scoped": [{"permissions": ["repo.content.read"]}]}, [], True),
        ({"global": ["discussion.write"], "scoped": []}, [], False),
        ({"global": ["inference.serverless.write"], "scoped": []}, [], False),
        ({"global": ["inference.serverless.write"], "scoped": []}, ["inference.serverless.write"], True),
        ({"global": [], "scoped": [{"permissions": ["repo.write"]}]}, ["inference.serverless.write"], False),
        ({"global": []}, [], False),
        ({"scoped": []}, [], False),
        ({"global": [], "scoped": [{}]}, [], False),
        ({}, [], False),
        (None, [], False),
    ],
)
async def test_fine_grained_tokens(
    start_edge: StartEdge, fine: object, extra: list[str], *, good: bool
) -> None:
    """Every permission must be a known read or one that the operator accepts; what is not told is no read."""
    token = {"role": "fineGrained", "createdAt": "2026-11-01T00:00:00Z", "fineGrained": fine}
    body = {"type": "user", "id": "1", "name": "a", "auth": {"type": "access_token", "accessToken": token}}
    async with RawEngine.start() as rogue:
        rogue.always(raw(whole(200, msgspec.json.encode(body))))
        settings = {"tokens": {"extra_permissions": extra, "max_age_days": 10_000}}
        edge = await start_edge({"hub": {"endpoint": f"http://127.0.0.1:{rogue.port}"}, **settings})
        answer = await edge.ask("GET", "/v1/models")
    assert answer.status == 200 if good else answer.code == "insufficient_scope"


async def test_an_oauth_token_that_only_reads_is_served(start_edge: StartEdge) -> None:
    """Where the operator allows them; each repo is checked for write once, and cached like access."""
    edge = await start_edge(OAUTH)
    token = app_token(edge.hub)
    for _ in range(3):
        assert (await edge.chat(PRIVATE, "hf_oauth_demo_bob")).code == "model_not_found"
        assert (await edge.chat(PUBLIC, "hf_oauth_demo_bob")).status == 200
        assert (await edge.chat(BASE, "hf_oauth_demo_bob")).status == 200
    calls = edge.hub_calls("bob")
    assert sum(call.endswith("/auth-check") for call in calls) == 3
    assert [call for call in calls if call.endswith("/write")] == [
        f"GET /api/models/{repo}/auth-check/write" for repo in (PUBLIC, BASE)
    ]
    assert (await edge.chat(PRIVATE, token)).status == 200


async def test_an_oauth_token_that_may_write_is_refused(start_edge: StartEdge) -> None:
    """Leave to write to the repo that is asked for is refused, and the same user's read token is not."""
    edge = await start_edge(OAUTH)
    answer = await edge.chat(PRIVATE, app_token(edge.hub, "repo.write"))
    assert (answer.status, told(answer, edge.hub.endpoint)) == (403, "insufficient_scope")
    assert PRIVATE in answer.json()["error"]["message"]
    assert edge.engine.requests == []
    assert (await edge.chat(PRIVATE, ALICE)).status == 200


@pytest.mark.parametrize("mode", ["500", "disconnect"])
async def test_without_an_answer_an_oauth_token_is_not_served(start_edge: StartEdge, mode: str) -> None:
    """While the Hub does not say whether it may write, the answer is 503, and it is not remembered."""
    edge = await start_edge(OAUTH)
    edge.hub.state.set_down(mode, paths="*/auth-check/write")
    answer = await edge.chat(PRIVATE, app_token(edge.hub))
    assert (answer.status, answer.code) == (503, "hub_unavailable")
    edge.hub.state.set_down(None)
    assert (await edge.chat(PRIVATE, APP)).status == 200


@pytest.mark.parametrize("days", [None, 0.0])
async def test_an_oauth_token_has_to_have_an_end_that_is_to_come(
    start_edge: StartEdge, days: float | None
) -> None:
    """One that does not say when it ends is as one that has ended."""
    edge = await start_edge(OAUTH)
    answer = await edge.chat(PRIVATE, app_token(edge.hub, days=days))
    assert (answer.status, answer.code) == (401, "token_expired")


async def test_a_key_with_an_oauth_token_opens_nothing_for_that_token(
    start_edge: StartEdge, tmp_path: Path
) -> None:
    """The operator's own key needs no check for write; the token behind it, used by itself, still does."""
    key = "local-key-of-ci-0123456789"
    (tmp_path / "token").write_text(APP)
    sha = hashlib.sha256(key.encode()).hexdigest()
    entry = {"name": "ci", "sha256": sha, "token": {"file": str(tmp_path / "token")}, "models": ["*/*"]}
    edge = await start_edge({**OAUTH, "keys": [entry]})
    app_token(edge.hub, "repo.write")
    assert (await edge.chat(PRIVATE, key)).status == 200
    assert (await edge.chat(PRIVATE, APP)).code == "insufficient_scope"


async def test_two_callers_share_facts_and_no_decision(start_edge: StartEdge) -> None:
    """Callers who ask for one repo at once are each decided by their own token; its commit is shared."""
    edge = await start_edge()
    edge.hub.state.set_gate(BASE, "eve", "rejected")
    edge.hub.state.set_down("slow", seconds=0.05)
    asked = [(ALICE, 200), (BOB, 200), ("hf_demo_eve", 403), ("hf_demo_pending", 403)] * 5
    answers = await asyncio.gather(*[edge.chat(PUBLIC, token) for token, _ in asked])
    assert [answer.status for answer in answers] == [status for _, status in asked]
    calls = edge.hub_calls()
    assert sum(call.endswith(f"{PUBLIC}/auth-check") for call in calls) == 4
    assert sum(call.endswith(f"{PUBLIC}/revision/main") for call in calls) == 1
