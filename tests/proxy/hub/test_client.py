"""What each answer of the Hub means: docs/hub.md's table, row by row, against the demo Hub."""

import re
import time

import pytest

from hubgate.demo.hub import DemoHub
from hubgate.proxy.errors import Denied
from hubgate.proxy.hub.client import HubClient
from hubgate.proxy.hub.schemas import Allowed, Moved, Refs, Snapshot, WhoAmI
from hubgate.proxy.metrics.registry import Metrics
from hubgate.wire.repo import RepoRef
from hubgate.wire.secret import Secret
from tests.fakes.hub_client import BASE, PRIVATE, PUBLIC, code, in_history


async def test_whoami_tells_what_decisions_rest_on(client: HubClient) -> None:
    """User, organizations, role, permissions and age of the token come from whoami."""
    facts = await client.whoami(Secret("hf_demo_alice"))
    assert isinstance(facts, WhoAmI)
    assert (facts.name, facts.type, [org.name for org in facts.orgs]) == ("alice", "user", ["acme"])
    token = facts.auth.access_token
    assert token is not None
    assert (token.role, token.display_name) == ("fineGrained", "alice-ci")
    assert token.fine_grained is not None
    assert token.fine_grained.scoped
    assert token.created_at is not None


async def test_whoami_of_an_oauth_token(client: HubClient) -> None:
    """An OAuth token has a kind and an expiry, and no role or age."""
    facts = await client.whoami(Secret("hf_oauth_demo_bob"))
    assert isinstance(facts, WhoAmI)
    assert (facts.auth.type, facts.auth.access_token) == ("app_token_as_user", None)
    assert facts.auth.expires_at is not None


@pytest.mark.parametrize(
    ("token", "meaning"),
    [("hf_demo_unknown", "invalid_api_key"), ("hf_demo_expired", "token_expired")],
)
async def test_whoami_of_bad_tokens(client: HubClient, token: str, meaning: str) -> None:
    """Unknown and expired tokens are told apart."""
    assert code(await client.whoami(Secret(token))) == meaning


async def test_whoami_of_a_revoked_token(client: HubClient, hub: DemoHub) -> None:
    """A revoked token is like an unknown one."""
    hub.state.revoke("hf_demo_alice")
    assert code(await client.whoami(Secret("hf_demo_alice"))) == "invalid_api_key"
    assert code(await client.auth_check(Secret("hf_demo_alice"), PUBLIC)) == "invalid_api_key"


@pytest.mark.parametrize(
    ("token", "repo", "meaning"),
    [
        ("hf_demo_alice", "demo/tiny-llama", "Allowed"),
        ("hf_demo_alice", "alice/pirate-lora", "Allowed"),
        ("hf_demo_bob", "demo/public-lora", "Allowed"),
        ("hf_demo_bob", "alice/pirate-lora", "model_not_found"),
        ("hf_demo_bob", "alice/nothing", "model_not_found"),
        ("hf_demo_eve", "demo/tiny-llama", "model_gated"),
        ("hf_demo_pending", "demo/tiny-llama", "access_pending"),
        ("hf_demo_rejected", "demo/tiny-llama", "access_denied"),
        ("hf_demo_narrow", "demo/tiny-llama", "insufficient_scope"),
        ("hf_demo_unapproved", "demo/tiny-llama", "access_denied"),
        ("hf_demo_bob", "demo/disabled-lora", "access_denied"),
        ("hf_demo_unknown", "demo/public-lora", "invalid_api_key"),
        ("hf_demo_expired", "demo/public-lora", "token_expired"),
    ],
)
async def test_auth_check(client: HubClient, token: str, repo: str, meaning: str) -> None:
    """Each of the Hub's answers on access means what the table says."""
    assert code(await client.auth_check(Secret(token), RepoRef.parse(repo))) == meaning


async def test_gates_say_where_access_is_asked_for(client: HubClient, hub: DemoHub) -> None:
    """The message of a gate names the page on this Hub."""
    for token in ("hf_demo_eve", "hf_demo_pending", "hf_demo_rejected"):
        denied = await client.auth_check(Secret(token), BASE)
        assert isinstance(denied, Denied)
        assert f"{hub.endpoint}/{BASE.id}" in denied.message


async def test_missing_and_private_read_alike(client: HubClient) -> None:
    """The refusal of a private repo is that of a missing one, but for the name asked for."""
    bob = Secret("hf_demo_bob")
    private = await client.auth_check(bob, PRIVATE)
    missing = await client.auth_check(bob, RepoRef.parse("alice/nobodys-lora"))
    assert isinstance(private, Denied)
    assert isinstance(missing, Denied)
    assert private.message.replace(PRIVATE.name, "X") == missing.message.replace("nobodys-lora", "X")
    assert (private.code, private.param, private.retry_after) == (
        missing.code,
        missing.param,
        missing.retry_after,
    )


async def test_renamed_repos_are_decided_anew(client: HubClient) -> None:
    """A redirect to another name is no answer: the target has to be asked for itself."""
    moved = await client.auth_check(Secret("hf_demo_eve"), RepoRef.parse("demo/old-llama"))
    assert moved == Moved(BASE)


async def test_snapshots_are_pinned(client: HubClient, hub: DemoHub) -> None:
    """A snapshot names the commit, and an adapter the base of its config at that commit."""
    bob, alice = Secret("hf_demo_bob"), Secret("hf_demo_alice")
    base = await client.snapshot(bob, BASE)
    assert base == Snapshot(BASE.at(hub.state.sha(BASE.id)), adapter=False, base="")
    lora = await client.snapshot(alice, PRIVATE.at("v1"))
    assert lora == Snapshot(PRIVATE.at(hub.state.sha(PRIVATE.id, "v1")), adapter=True, base=BASE.id)
    assert code(await client.snapshot(bob, PRIVATE)) == "model_not_found"
    assert code(await client.snapshot(bob, PUBLIC.at("nowhere"))) == "model_not_found"


@pytest.mark.parametrize(
    ("config", "base"),
    [
        (b'{"base_model_name_or_path": "/srv/models/x"}', "/srv/models/x"),
        (b'{"base_model_name_or_path": null}', ""),
        (b'{"base_model_name_or_path": ""}', ""),
        (b'{"base_model_name_or_path": 5}', ""),
        (b"{}", ""),
        (b'{"base_model_name_or_path": "%s"}' % (b"x" * 1_000), "x" * 1_000),
        (b'{"base_model_name_or_path": "%s"}' % (b"x" * 1_001), ""),
    ],
)
async def test_an_adapter_may_name_anything(
    client: HubClient, hub: DemoHub, config: bytes, base: str
) -> None:
    """What an adapter's config says of its base is passed on as text, up to a length, or as nothing."""
    sha = hub.state.add_repo("demo/odd-lora", {"adapter_config.json": config})
    repo = RepoRef.parse("demo/odd-lora")
    assert await client.snapshot(Secret("hf_demo_bob"), repo) == Snapshot(
        repo.at(sha), adapter=True, base=base
    )


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        (b"", "is not JSON."),
        (b"{", "is not JSON."),
        (b"[]", "is not JSON."),
        (b"\xff", "is not JSON."),
        (b'{"x":' + b"[" * 100 + b"]" * 100 + b"}", "nests too deep, or holds too much."),
        (b" " * (1024 * 1024 + 1), "is larger than 1048576 bytes."),
    ],
)
async def test_an_adapter_whose_config_cannot_be_read(
    client: HubClient, hub: DemoHub, config: bytes, fault: str
) -> None:
    """It is rejected, and its author reads why."""
    hub.state.add_repo("demo/odd-lora", {"adapter_config.json": config})
    denied = await client.snapshot(Secret("hf_demo_bob"), RepoRef.parse("demo/odd-lora"))
    assert isinstance(denied, Denied)
    assert denied.code == "adapter_rejected"
    assert denied.message == f"demo/odd-lora: adapter_config.json {fault}"


async def test_histories_are_followed_over_pages(client: HubClient, hub: DemoHub) -> None:
    """A commit is found on any page of a history; one of a pull request is on none."""
    token = Secret("hf_demo_bob")
    first = hub.state.sha(PUBLIC.id)
    for number in range(5):
        hub.state.add_commit(PUBLIC.id, {"README.md": f"{number}".encode()})
    stray = hub.state.add_commit(PUBLIC.id, {"README.md": b"pr"}, ref="refs/pr/1", parent=first)
    assert await in_history(client, token, PUBLIC.at("main"), first) is True
    assert await in_history(client, token, PUBLIC.at("main"), stray) is False
    assert await in_history(client, token, PUBLIC.at("refs/pr/1"), stray) is True
    assert code(await in_history(client, token, PUBLIC.at("nowhere"), first)) == "model_not_found"


async def test_refs_are_branches_and_tags(client: HubClient) -> None:
    """Pull requests are not among a repo's refs."""
    refs = await client.refs(Secret("hf_demo_alice"), PRIVATE)
    assert isinstance(refs, Refs)
    assert [ref.name for ref in refs.branches] == ["main"]
    assert [ref.name for ref in refs.tags] == ["v1"]


async def test_questions_are_counted(client: HubClient, metrics: Metrics) -> None:
    """Each question is counted by its kind and the status of its answer, and its seconds are summed up."""
    began = time.perf_counter()
    await client.whoami(Secret("hf_demo_alice"))
    await client.auth_check(Secret("hf_demo_bob"), PRIVATE)
    text = metrics.expose()
    assert b'hubgate_hub_requests_total{call="whoami",status="200"} 1.0' in text
    assert b'hubgate_hub_requests_total{call="auth-check",status="404"} 1.0' in text
    assert b'hubgate_hub_request_seconds_count{call="whoami"} 1.0' in text
    spent = re.search(rb'hubgate_hub_request_seconds_sum{call="whoami"} (\S+)', text)
    assert spent is not None
    assert 0 < float(spent[1]) < time.perf_counter() - began


async def test_the_callers_token_is_the_only_one(
    client: HubClient, hub: DemoHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service token in the environment is never sent for a caller."""
    monkeypatch.setenv("HF_TOKEN", "hf_demo_service")
    await client.auth_check(Secret("hf_demo_bob"), BASE)
    await client.snapshot(Secret("hf_demo_bob"), BASE)
    assert {entry.user for entry in hub.log} == {"bob"}


async def test_access_is_a_value(client: HubClient) -> None:
    """Leave is a value without content."""
    assert await client.auth_check(Secret("hf_demo_bob"), PUBLIC) == Allowed()
