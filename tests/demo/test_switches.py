"""What can be switched while the demo Hub serves, in Python and over HTTP, and what it writes down."""

import asyncio
import io
import json
from collections.abc import Callable
from dataclasses import asdict

import aiohttp
import pytest
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.utils._http import parse_ratelimit_headers

from hubgate.demo.catalog import Token, User, load
from hubgate.demo.hub import DemoHub
from tests.demo.conftest import Client

Clients = Callable[[str | None], Client]
WHOAMI = "/api/whoami-v2"
BOB = "hf_demo_bob"


async def post(http: aiohttp.ClientSession, hub: DemoHub, switch: str, body: object = None) -> int:
    """Use a switch over HTTP; give the status."""
    async with http.post(f"{hub.files_endpoint}/_demo/{switch}", json=body or {}) as answer:
        await answer.json()
        return answer.status


async def status(http: aiohttp.ClientSession, hub: DemoHub, path: str = WHOAMI, token: str = BOB) -> int:
    """Ask the Hub for a path; give the status."""
    async with http.get(hub.endpoint + path, headers={"Authorization": f"Bearer {token}"}) as answer:
        await answer.read()
        return answer.status


async def test_revoke_by_token_name_and_user(hub: DemoHub, http: aiohttp.ClientSession) -> None:
    """A token can be revoked by itself, by its name or with all of its user's, and given back."""
    for one in ({"token": "hf_demo_bob"}, {"name": "bob-laptop"}):
        assert hub.state.revoke(**one) == 1
        assert await status(http, hub) == 401
        assert await status(http, hub, token="hf_oauth_demo_bob") == 200
        assert hub.state.unrevoke(**one) == 1
        assert await status(http, hub) == 200
    assert hub.state.revoke(user="bob") == 3
    assert await status(http, hub, token="hf_oauth_demo_bob") == 401
    assert hub.state.revoke(user="nobody") == 0


async def test_a_repo_over_http_is_there_at_once(hub: DemoHub, http: aiohttp.ClientSession) -> None:
    """A new repo is made by a recipe while the Hub serves; what makes no repo is refused."""
    body = {"repo": "alice/new", "make": "adapter", "name": "alice/new", "phrase": "yes ", "private": True}
    assert await post(http, hub, "repo", body) == 200
    assert await status(http, hub, "/api/models/alice/new", "hf_demo_alice") == 200
    assert await status(http, hub, "/api/models/alice/new") == 404
    assert await post(http, hub, "repo", {**body, "make": "nothing"}) == 400


async def test_files_of_a_new_repo_can_be_given_in_pieces(
    hub: DemoHub, http: aiohttp.ClientSession, client: Clients
) -> None:
    """A file that a recipe would not make: texts, and how often each comes."""
    body = {"repo": "demo/odd", "make": "adapter", "name": "demo/odd", "phrase": "yes "}
    pieces = {"adapter_config.json": [["[", 3], ["1", 1], ["]", 3]]}
    assert await post(http, hub, "repo", {**body, "pieces": pieces}) == 200
    path = await client("bob").download("demo/odd", "adapter_config.json")
    assert path.read_text(encoding="utf-8") == "[[[1]]]"


async def test_a_new_user_may_call_at_once(hub: DemoHub, http: aiohttp.ClientSession) -> None:
    """A user who was not there before has a token that reads what is open to all."""
    assert await status(http, hub, token="hf_demo_mallory") == 401
    assert await post(http, hub, "user", {"user": "mallory"}) == 200
    assert await status(http, hub, token="hf_demo_mallory") == 200
    assert await status(http, hub, "/api/models/demo/tiny-llama/auth-check", "hf_demo_mallory") == 403


async def test_a_new_user_may_have_two_devices_and_an_organization(
    hub: DemoHub, http: aiohttp.ClientSession
) -> None:
    """Each device has a token of its own, of the same user."""
    assert await post(http, hub, "user", {"user": "mallory", "orgs": {"crowd": "read"}}) == 200
    assert await post(http, hub, "user", {"user": "mallory", "device": "phone"}) == 200
    told = []
    for token in ("hf_demo_mallory", "hf_demo_mallory_phone"):
        url = f"{hub.endpoint}/api/whoami-v2"
        async with http.get(url, headers={"Authorization": f"Bearer {token}"}) as answer:
            told.append(await answer.json())
    assert [(one["name"], [org["name"] for org in one["orgs"]]) for one in told] == [
        ("mallory", ["crowd"])
    ] * 2


async def test_a_commit_over_http_moves_main(hub: DemoHub, http: aiohttp.ClientSession) -> None:
    """A separate process can move main of a repo, and what was there before stays reachable."""
    before = hub.state.sha("demo/public-lora")
    assert await post(http, hub, "commit", {"repo": "demo/public-lora", "readme": "new"}) == 200
    after = hub.state.sha("demo/public-lora")
    assert after != before
    assert hub.state.sha("demo/public-lora", before) == before
    assert await post(http, hub, "commit", {"repo": "demo/none", "readme": "new"}) == 400


async def test_switches_over_http(hub: DemoHub, http: aiohttp.ClientSession) -> None:
    """A separate process can revoke, change the gate, take the Hub down and restore everything."""
    gate = "/api/models/demo/tiny-llama/auth-check"
    assert await post(http, hub, "revoke", {"token_name": "bob-laptop"}) == 200
    assert await status(http, hub) == 401
    assert await post(http, hub, "unrevoke", {"user": "bob"}) == 200
    assert await post(http, hub, "gate", {"repo": "demo/tiny-llama", "user": "bob", "access": None}) == 200
    assert await status(http, hub, gate) == 403
    assert await post(http, hub, "down", {"mode": "503", "paths": "*whoami*"}) == 200
    assert (await status(http, hub), await status(http, hub, gate)) == (503, 403)
    assert await post(http, hub, "down", {"mode": None}) == 200
    assert await status(http, hub) == 200
    assert await post(http, hub, "restore") == 200
    assert await status(http, hub, gate) == 200


@pytest.mark.parametrize(
    ("switch", "body"),
    [
        ("down", {"mode": "sideways"}),
        ("down", {"mode": "503", "odd": 1}),
        ("revoke", {"odd": 1}),
        ("gate", {}),
        ("down", []),
    ],
)
async def test_switch_that_makes_no_sense(
    switch: str, body: object, hub: DemoHub, http: aiohttp.ClientSession
) -> None:
    """A switch with wrong fields is refused and changes nothing."""
    assert await post(http, hub, switch, body) == 400
    assert await status(http, hub) == 200


async def test_changes_of_repos(hub: DemoHub, client: Clients) -> None:
    """Gates, privacy, gating, names and new tokens take effect at once, and restore undoes them."""
    hub.state.set_gate("demo/tiny-llama", "eve", "accepted")
    await client("eve").auth_check("demo/tiny-llama")
    hub.state.set_private("demo/public-lora", private=True)
    assert not await client("eve").repo_exists("demo/public-lora")
    hub.state.set_gated("demo/wrong-base-lora", "auto")
    with pytest.raises(GatedRepoError):
        await client("eve").auth_check("demo/wrong-base-lora")
    hub.state.rename("demo/pickle-lora", "demo/pickled-lora")
    assert (await client("eve").model_info("demo/pickle-lora")).id == "demo/pickled-lora"
    hub.state.add_user("fay")
    hub.state.add_token("hf_fay", Token(user="fay", name="fresh", role="write"))
    assert (await client("hf_fay").whoami())["auth"]["accessToken"]["role"] == "write"
    hub.state.set_disabled("demo/disabled-lora", disabled=False)
    await client("eve").auth_check("demo/disabled-lora")
    hub.state.restore()
    await client("eve").auth_check("demo/public-lora")
    with pytest.raises(HfHubHTTPError):
        await client("hf_fay").whoami()
    with pytest.raises(RepositoryNotFoundError):
        await client("eve").auth_check("demo/pickled-lora")
    with pytest.raises(KeyError):
        hub.state.add_token("hf_gus", Token(user="gus", name="none"))


async def test_rate_limit_is_one_that_the_client_reads(hub: DemoHub, client: Clients) -> None:
    """Down mode 429 says, in headers that the client parses, when to come back."""
    hub.state.set_down("429")
    with pytest.raises(HfHubHTTPError) as caught:
        await client("bob").model_info("demo/public-lora")
    info = parse_ratelimit_headers(caught.value.response.headers)
    assert info is not None
    assert (info.remaining, info.reset_in_seconds, info.limit) == (0, 55, 1000)


async def test_outage_can_end_by_itself(hub: DemoHub, http: aiohttp.ClientSession) -> None:
    """An outage of two requests is over with the third."""
    hub.state.set_down("500", times=2)
    assert [await status(http, hub) for _ in range(3)] == [500, 500, 200]


async def test_hang_holds_requests_until_it_is_lifted(hub: DemoHub, http: aiohttp.ClientSession) -> None:
    """Requests that hang are counted, one that leaves is logged as 499, the rest are answered in the end."""
    hub.state.set_down("hang")
    asking = [asyncio.create_task(status(http, hub)) for _ in range(3)]
    await hub.state.outages.wait_held(3)
    asking[0].cancel()
    await hub.state.outages.wait_held(2)
    assert [entry.status for entry in hub.log] == [499]
    hub.state.set_down(None)
    assert await asyncio.gather(*asking[1:]) == [200, 200]


async def test_stopping_lets_go_of_hanging_requests(http: aiohttp.ClientSession) -> None:
    """A demo Hub with a request that hangs still stops."""
    async with DemoHub.start() as hub:
        hub.state.set_down("hang")
        asking = asyncio.create_task(status(http, hub))
        await hub.state.outages.wait_held(1)
    with pytest.raises(aiohttp.ClientError):
        await status(http, hub)
    await asyncio.gather(asking, return_exceptions=True)


async def test_a_page(hub: DemoHub, http: aiohttp.ClientSession) -> None:
    """Something before the Hub answers for it, on every path."""
    hub.state.set_down("page")
    for path in ("/api/whoami-v2", "/api/models/alice/pirate-lora/auth-check"):
        async with http.get(f"{hub.endpoint}{path}") as answer:
            assert (answer.status, answer.content_type) == (200, "text/html")
            assert (await answer.text()).startswith("<!doctype html>")


async def test_slow_and_disconnect(hub: DemoHub, http: aiohttp.ClientSession) -> None:
    """A slow Hub answers in the end; a disconnecting one cuts the connection without an answer."""
    hub.state.set_down("slow", seconds=0.01)
    assert await status(http, hub) == 200
    hub.state.set_down("disconnect")
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await status(http, hub)


async def test_log_says_who_asked_what(hub: DemoHub, client: Clients) -> None:
    """One entry a request: method, path, query, user, token name, status, bytes and agent."""
    await client("alice").model_info("alice/pirate-lora", revision="refs/pr/7", files_metadata=True)
    entry = hub.log[-1]
    assert (entry.method, entry.path) == ("GET", "/api/models/alice/pirate-lora/revision/refs%2Fpr%2F7")
    assert (entry.query, entry.user, entry.token_name, entry.status) == (
        "blobs=true",
        "alice",
        "alice-ci",
        200,
    )
    assert entry.bytes > 100
    assert "hf_hub/" in entry.user_agent
    hub.state.revoke(user="alice")
    with pytest.raises(HfHubHTTPError):
        await client("alice").whoami()
    assert (hub.log[-1].user, hub.log[-1].status) == ("alice", 401)
    assert len(hub.log) == 2


async def test_tokens_never_reach_the_log(http: aiohttp.ClientSession) -> None:
    """No token and no signature is in the log, its file or its page, wherever a caller may have put it."""
    file = io.StringIO()
    tokens = [*load().tokens, "hf_demo_unknown"]
    async with DemoHub.start(log_file=file) as hub:
        for token in tokens:
            for path in (
                f"{WHOAMI}?token={token}",
                f"/api/models/{token}/x",
                "/demo/public-lora/resolve/main/adapter_model.safetensors",
            ):
                headers = {"Authorization": f"Bearer {token}", "User-Agent": f"probe/{token}"}
                async with http.get(hub.endpoint + path, headers=headers) as answer:
                    await answer.read()
        async with http.get(f"{hub.files_endpoint}/_demo/log") as answer:
            shown = await answer.text()
        seen = [shown, file.getvalue(), repr([*hub.log]), repr(hub.state.catalog), repr(hub)]
        assert [json.loads(line) for line in file.getvalue().splitlines()] == [
            asdict(entry) for entry in hub.log
        ]
    for text in seen:
        assert not [token for token in tokens if token in text]
    assert "signature=***" in file.getvalue()


async def test_log_is_bounded(http: aiohttp.ClientSession) -> None:
    """Only the last entries are kept in memory."""
    async with DemoHub.start() as hub:
        limit = 10_000
        await status(http, hub)
        for _ in range(limit + 5):
            hub.log.add(hub.log[0])
        assert len(hub.log) == limit
        hub.log.clear()
        assert hub.log.paths() == []


async def test_an_account_keeps_its_id_under_another_name(hub: DemoHub, client: Clients) -> None:
    """A renamed user or organization is the same one with the same repos; who takes the old name is not."""
    before = await client("alice").whoami()
    hub.state.rename_account("alice", "alicia")
    hub.state.rename_account("acme", "acme-two")
    after = await client("alice").whoami()
    assert (after["name"], after["id"]) == ("alicia", before["id"])
    orgs = [(org["name"], org["id"]) for org in after["orgs"]]
    assert orgs == [("acme-two", before["orgs"][0]["id"])]
    await client("alice").auth_check("alicia/pirate-lora")
    hub.state.add_user("alice", User(fullname="Another", orgs={"acme": "admin"}))
    hub.state.add_token("hf_demo_other", Token(user="alice", name="laptop"))
    other = await client("hf_demo_other").whoami()
    assert other["name"] == "alice"
    assert {other["id"], other["orgs"][0]["id"]}.isdisjoint({before["id"], before["orgs"][0]["id"]})
    with pytest.raises(RepositoryNotFoundError):
        await client("hf_demo_other").auth_check("alicia/pirate-lora")
