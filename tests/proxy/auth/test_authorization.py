"""The decision on one caller and one model: their own access, adapter and base, pinned."""

from pathlib import Path
from typing import Any

import pytest

from hubgate.demo.catalog import Token
from hubgate.demo.hub import DemoHub
from hubgate.proxy.auth.accounts import Accounts
from hubgate.proxy.auth.authorization import MAX_CALLERS, MAX_NAMED, Access, Authorizer
from hubgate.proxy.auth.identity import Caller, Identities
from hubgate.proxy.auth.policy import ModelPolicy
from hubgate.proxy.auth.revisions import Revisions
from hubgate.proxy.auth.unknown_tokens import UnknownTokenLimiter
from hubgate.proxy.errors import Denied
from hubgate.proxy.hub.cache import Cache
from hubgate.proxy.hub.client import HubClient
from hubgate.proxy.hub.errors import HubErrors
from hubgate.proxy.settings import Models
from hubgate.wire.repo import RepoRef
from hubgate.wire.secret import Secret
from tests.fakes.clock import Clock
from tests.fakes.hub_client import histories
from tests.fakes.keyring import Keyring

BASE, PRIVATE, PUBLIC = "demo/tiny-llama", "alice/pirate-lora", "demo/public-lora"


def life(value: object) -> float:
    """As in the composition root."""
    return (0 if value.code == "hub_unavailable" else 10) if isinstance(value, Denied) else 60


class World:
    """A demo Hub and authorizers over it; `running` is what some engine runs."""

    def __init__(
        self, hub: DemoHub, client: HubClient, clock: Clock, ring: Keyring, accounts: Accounts
    ) -> None:
        self.hub = hub
        self._client = client
        self._clock = clock
        self.running: dict[str, str] = {}
        self.identities = Identities(
            client,
            ring.proxy,
            {},
            UnknownTokenLimiter(100, clock),
            HubErrors(hub.endpoint),
            accounts=accounts,
            cache=self._cache(),
            digest_key=b"d" * 32,
        )

    def _cache(self) -> Cache[Any, Any]:
        return Cache(capacity=100, ttl=life, clock=self._clock)

    def authorizer(self, **models: Any) -> Authorizer:
        """An authorizer with caches of its own."""
        read = Models(**{"allow": ("demo/*", "alice/*"), **models})
        return Authorizer(
            self._client,
            self.identities,
            Revisions(
                self._client,
                lambda: read.revisions,
                snapshots=self._cache(),
                lineages=self._cache(),
                histories=histories(self._client, self._clock),
            ),
            ModelPolicy(read),
            accesses=self._cache(),
            running=self.running.get,
        )

    async def caller(self, token: str = "hf_demo_alice") -> Caller:
        caller, _ = await self.identities.resolve(Secret(token), "192.0.2.1")
        assert isinstance(caller, Caller)
        return caller

    async def decide(self, authorizer: Authorizer, token: str, model: str) -> Access | str:
        """The access, or the code of the refusal."""
        caller = await self.caller(token)
        repo = authorizer.name(model, caller.identity.sub)
        if isinstance(repo, Denied):
            return repo.code
        access, _ = await authorizer.authorize(caller, repo)
        return access.code if isinstance(access, Denied) else access

    def at(self, repo: str, revision: str = "main") -> RepoRef:
        return RepoRef.parse(f"{repo}@{self.hub.state.sha(repo, revision)}")


@pytest.fixture
def world(hub: DemoHub, client: HubClient, clock: Clock, tmp_path: Path, accounts: Accounts) -> World:
    return World(hub, client, clock, Keyring.make(tmp_path), accounts)


async def test_a_base_is_pinned(world: World) -> None:
    """A base that the caller may read is granted at the commit that its branch means now."""
    access = await world.decide(world.authorizer(), "hf_demo_bob", BASE)
    assert access == Access(world.at(BASE))
    assert isinstance(access, Access)
    assert access.model == str(world.at(BASE))


async def test_an_adapter_is_granted_with_its_base(world: World) -> None:
    """An adapter comes with the base of its own config, both pinned, and is served under its own name."""
    access = await world.decide(world.authorizer(), "hf_demo_alice", PRIVATE)
    assert access == Access(world.at(BASE), world.at(PRIVATE))
    assert isinstance(access, Access)
    assert access.model == str(world.at(PRIVATE))


@pytest.mark.parametrize(
    ("token", "model", "code"),
    [
        ("hf_demo_bob", PRIVATE, "model_not_found"),
        ("hf_demo_bob", "alice/nobodys-lora", "model_not_found"),
        ("hf_demo_eve", BASE, "model_gated"),
        ("hf_demo_eve", PUBLIC, "model_gated"),
        ("hf_demo_pending", PUBLIC, "access_pending"),
        ("hf_demo_bob", "demo/disabled-lora", "access_denied"),
        ("hf_demo_bob", "other/model", "model_not_allowed"),
        ("hf_demo_alice", f"{PRIVATE}@refs/pr/7", "model_not_allowed"),
        ("hf_demo_alice", "../x", "invalid_request"),
        ("hf_demo_alice", "", "invalid_request"),
        ("hf_demo_alice", f"{BASE}\n", "invalid_request"),
    ],
)
async def test_refusals(world: World, token: str, model: str, code: str) -> None:
    """Whatever is not the caller's to use is refused with its reason."""
    assert await world.decide(world.authorizer(), token, model) == code


async def test_one_callers_grant_is_not_anothers(world: World) -> None:
    """After alice was granted her adapter, bob is still refused, and asked about himself."""
    authorizer = world.authorizer()
    await world.decide(authorizer, "hf_demo_alice", PRIVATE)
    world.hub.log.clear()
    assert await world.decide(authorizer, "hf_demo_bob", PRIVATE) == "model_not_found"
    assert f"GET /api/models/{PRIVATE}/auth-check" in world.hub.log.paths()


async def test_access_is_asked_once_per_caller_and_ttl(world: World, clock: Clock) -> None:
    """Within the ttl a second request asks nothing; after it, access is asked anew and the rest is not."""
    authorizer = world.authorizer()
    await world.decide(authorizer, "hf_demo_alice", PRIVATE)
    world.hub.log.clear()
    await world.decide(authorizer, "hf_demo_alice", PRIVATE)
    assert world.hub.log.paths() == []
    clock.advance(60)
    await world.decide(authorizer, "hf_demo_alice", PRIVATE)
    checks = [path for path in world.hub.log.paths() if path.endswith("/auth-check")]
    assert checks == [f"GET /api/models/{PRIVATE}/auth-check", f"GET /api/models/{BASE}/auth-check"]


async def test_a_revoked_gate_is_noticed_after_the_ttl(world: World, clock: Clock) -> None:
    """Access that was taken away ends when the answer's life does, and not later."""
    authorizer = world.authorizer()
    await world.decide(authorizer, "hf_demo_bob", BASE)
    world.hub.state.set_gate(BASE, "bob", "rejected")
    clock.advance(60)
    assert await world.decide(authorizer, "hf_demo_bob", BASE) == "access_denied"
    assert await world.decide(authorizer, "hf_demo_bob", PUBLIC) == "access_denied"


async def test_a_revoked_token_ends_the_identity_too(world: World, clock: Clock) -> None:
    """A 401 from auth-check drops the cached identity."""
    authorizer = world.authorizer()
    caller = await world.caller("hf_demo_alice")
    world.hub.state.revoke(user="alice")
    found, _ = await authorizer.authorize(caller, RepoRef.parse(PRIVATE))
    assert isinstance(found, Denied)
    assert found.code == "invalid_api_key"
    refused, source = await world.identities.resolve(caller.token, "192.0.2.1")
    assert isinstance(refused, Denied)
    assert source == "hub"


async def test_a_remembered_401_ends_the_identity_once(world: World) -> None:
    """While auth-check's 401 is remembered, whoami is asked once more and not at every request."""
    authorizer = world.authorizer()
    caller = await world.caller("hf_demo_alice")
    world.hub.state.revoke(user="alice")
    await authorizer.authorize(caller, RepoRef.parse(PRIVATE))
    world.hub.state.unrevoke(user="alice")
    world.hub.log.clear()
    for _ in range(5):
        assert await world.decide(authorizer, "hf_demo_alice", PRIVATE) == "invalid_api_key"
    assert world.hub.log.paths() == ["GET /api/whoami-v2"]


async def test_a_401_of_the_write_check_ends_the_identity_too(world: World) -> None:
    """An OAuth token that was revoked between the two checks is asked about anew."""
    world.hub.state.add_token("hf_oauth_tried", Token(user="alice", name="tried", role="none"))
    authorizer = world.authorizer()
    caller = await world.caller("hf_oauth_tried")
    world.hub.state.revoke(user="alice")
    found, _ = await authorizer.authorize(caller, RepoRef.parse(PRIVATE))
    assert isinstance(found, Denied)
    assert (await world.identities.resolve(caller.token, "192.0.2.1"))[1] == "hub"


async def test_an_unpinned_base_stays_on_what_runs(world: World) -> None:
    """While an engine runs a base, its name means that commit, for adapters too; a pin means itself."""
    running = world.at(BASE)
    moved = world.hub.state.add_commit(BASE, {"README.md": b"new"})
    world.running[BASE] = str(running.revision)
    authorizer = world.authorizer()
    assert await world.decide(authorizer, "hf_demo_bob", BASE) == Access(running)
    assert await world.decide(authorizer, "hf_demo_bob", f"{BASE}@main") == Access(running)
    asked = RepoRef.parse(f"{BASE}@main")  # as an adapter's config may name it
    assert (await authorizer.authorize(await world.caller("hf_demo_bob"), asked))[0] == Access(running)
    adapted = await world.decide(authorizer, "hf_demo_bob", PUBLIC)
    assert isinstance(adapted, Access)
    assert adapted.base == running
    pinned = await world.decide(authorizer, "hf_demo_bob", f"{BASE}@{moved}")
    assert pinned == Access(running.at(moved))


async def test_what_runs_is_no_leave(world: World) -> None:
    """That a base runs does not let anybody use it."""
    world.running[BASE] = str(world.at(BASE).revision)
    assert await world.decide(world.authorizer(), "hf_demo_eve", BASE) == "model_gated"


async def test_a_renamed_repo_is_decided_under_its_new_name(world: World) -> None:
    """The old name leads to the new one, whose policy and access count."""
    assert await world.decide(world.authorizer(), "hf_demo_bob", "demo/old-llama") == Access(world.at(BASE))
    assert await world.decide(world.authorizer(), "hf_demo_eve", "demo/old-llama") == "model_gated"
    denied = world.authorizer(deny=(BASE,))
    assert await world.decide(denied, "hf_demo_bob", "demo/old-llama") == "model_not_allowed"


async def test_names_that_lead_in_circles(world: World) -> None:
    """Renames that never end are an outage, after a few questions."""
    for name, other in (("demo/a", "demo/b"), ("demo/b", "demo/a")):
        world.hub.state.add_repo(name, {"README.md": b""})
        world.hub.state.repos[name].id = other
    assert await world.decide(world.authorizer(), "hf_demo_bob", "demo/a") == "hub_unavailable"
    assert len(world.hub.log) <= 4


async def test_aliases_and_mapped_bases(world: World) -> None:
    """An alias stands for a repo; a base's local name is translated by the operator's map."""
    world.hub.state.add_repo("demo/odd", {"adapter_config.json": b'{"base_model_name_or_path": "/srv/x"}'})
    plain = world.authorizer(aliases={"gpt-4o": PUBLIC})
    assert isinstance(await world.decide(plain, "hf_demo_bob", "gpt-4o"), Access)
    assert await world.decide(plain, "hf_demo_bob", "demo/odd") == "adapter_rejected"
    mapped = world.authorizer(base_map={"/srv/x": BASE})
    found = await world.decide(mapped, "hf_demo_bob", "demo/odd")
    assert isinstance(found, Access)
    assert found.base == world.at(BASE)


async def test_an_adapter_on_an_adapter_is_rejected(world: World) -> None:
    """A base has to be a model of its own."""
    config = b'{"base_model_name_or_path": "demo/public-lora"}'
    world.hub.state.add_repo("demo/odd", {"adapter_config.json": config})
    assert await world.decide(world.authorizer(), "hf_demo_bob", "demo/odd") == "adapter_rejected"


@pytest.mark.parametrize(("require", "verdict"), [(True, "model_gated"), (False, "Access")])
async def test_access_to_the_base_may_be_waived(world: World, verdict: str, *, require: bool) -> None:
    """`require_base_access: false` serves adapters on a base that the caller could not use alone."""
    authorizer = world.authorizer(require_base_access=require)
    world.running[BASE] = str(world.at(BASE).revision)
    found = await world.decide(authorizer, "hf_demo_eve", PUBLIC)
    assert (found if isinstance(found, str) else type(found).__name__) == verdict
    assert await world.decide(authorizer, "hf_demo_eve", BASE) == "model_gated"


async def test_a_base_outside_the_policy_is_refused(world: World) -> None:
    """Nobody gets a denied base through an adapter, whether access to it is required or not."""
    for require in (True, False):
        authorizer = world.authorizer(deny=(BASE,), require_base_access=require)
        assert await world.decide(authorizer, "hf_demo_bob", PUBLIC) == "model_not_allowed"


@pytest.mark.parametrize("mode", ["503", "429", "disconnect"])
async def test_an_outage_is_never_a_decision(world: World, clock: Clock, mode: str) -> None:
    """While the Hub is away the answer is 503, and afterwards it is what it always was."""
    authorizer = world.authorizer()
    await world.caller("hf_demo_bob")
    world.hub.state.set_down(mode)
    assert await world.decide(authorizer, "hf_demo_bob", BASE) == "hub_unavailable"
    world.hub.state.set_down(None)
    clock.advance(60)  # a 429 asks for silence
    assert isinstance(await world.decide(authorizer, "hf_demo_bob", BASE), Access)


async def test_one_name_for_the_default_branch(world: World) -> None:
    """`@main` and no revision are the same name; a bad one is a fault of the parameter `model`.

    One without a slash is another provider's, and does not exist here.
    """
    authorizer = world.authorizer()
    assert authorizer.name(f"{BASE}@main", "a") == authorizer.name(BASE, "a") == RepoRef.parse(BASE)
    assert authorizer.name(f"{BASE}@v1", "a") == RepoRef.parse(f"{BASE}@v1")
    for name, code in {"org//llama": "invalid_request", "llama": "model_not_found"}.items():
        bad = authorizer.name(name, "a")
        assert isinstance(bad, Denied)
        assert (bad.code, bad.param) == (code, "model")


def test_a_name_is_read_once_for_each_caller(world: World) -> None:
    """What one caller names is neither quicker for another, nor slower by what others name."""
    authorizer = world.authorizer()
    first = authorizer.name(BASE, "a")
    assert authorizer.name(BASE, "b") is not first
    for number in range(MAX_NAMED * 3):
        authorizer.name(f"demo/other-{number}", "b")
    assert authorizer.name(BASE, "a") is first
    for number in range(MAX_NAMED * 3):
        authorizer.name(f"demo/other-{number}", "a")
    assert authorizer.name(BASE, "a") is not first


def test_names_are_forgotten(world: World) -> None:
    """The callers who came first, when there are too many; all of them, when the policy was read anew."""
    authorizer = world.authorizer()
    first = authorizer.name(BASE, "a")
    for number in range(MAX_CALLERS - 1):
        authorizer.name(BASE, f"{number}")
    assert authorizer.name(BASE, "a") is first
    authorizer.name(BASE, "one more")
    again = authorizer.name(BASE, "a")
    assert again is not first
    authorizer.forget_all()
    assert authorizer.name(BASE, "a") is not again


@pytest.mark.parametrize(
    ("token", "model", "code"),
    [
        ("hf_demo_bob", f"{BASE}@nothing", "model_not_allowed"),
        ("hf_demo_eve", PUBLIC, "model_gated"),
    ],
)
async def test_where_a_late_refusal_comes_from(world: World, token: str, model: str, code: str) -> None:
    """A refusal of the revision or of the base came from the Hub, though access was remembered."""
    authorizer = world.authorizer(revisions=("main", "tags"))
    for _ in range(2):
        found, source = await authorizer.authorize(await world.caller(token), RepoRef.parse(model))
        assert isinstance(found, Denied)
        assert (found.code, source) == (code, "hub")


async def test_a_base_whose_commit_cannot_be_found_is_no_decision(world: World) -> None:
    """When the Hub fails between two questions of one decision, that is an outage."""
    authorizer = world.authorizer()
    bob = await world.caller("hf_demo_bob")
    assert await authorizer.refusal(bob, RepoRef.parse(BASE)) is None
    world.hub.state.set_down("503")
    found, source = await authorizer.authorize(bob, RepoRef.parse(BASE))
    assert isinstance(found, Denied)
    assert (found.code, source) == ("hub_unavailable", "hub")


async def test_an_adapter_without_the_commit_of_its_base_is_no_decision(world: World) -> None:
    """When the Hub fails at the last question, about the base, there is no leave for the adapter alone."""
    world.hub.state.set_down("503", paths=f"*/{BASE}/revision/*")
    assert await world.decide(world.authorizer(), "hf_demo_alice", PRIVATE) == "hub_unavailable"


async def test_listings_are_filtered_by_each_callers_own_refusal(world: World) -> None:
    """A repo is left out for whom it is refused to, with the reason, and for nobody else."""
    authorizer = world.authorizer()
    repo = RepoRef.parse(PRIVATE)
    assert await authorizer.refusal(await world.caller("hf_demo_alice"), repo) is None
    refused = await authorizer.refusal(await world.caller("hf_demo_bob"), repo)
    assert refused is not None
    assert refused.code == "model_not_found"


async def test_what_is_forgotten_is_asked_again(world: World) -> None:
    """After `forget_all` neither access nor the commit of a branch is remembered."""
    authorizer = world.authorizer()
    before = await world.decide(authorizer, "hf_demo_bob", BASE)
    moved = world.hub.state.add_commit(BASE, {"README.md": b"new"})
    assert await world.decide(authorizer, "hf_demo_bob", BASE) == before
    authorizer.forget_all()
    world.hub.log.clear()
    assert await world.decide(authorizer, "hf_demo_bob", BASE) == Access(RepoRef.parse(BASE).at(moved))
    assert f"GET /api/models/{BASE}/auth-check" in world.hub.log.paths()


async def test_what_cannot_be_served_is_not_asked_about(world: World) -> None:
    """A pull request of a repo, and a model outside the policy, cost the Hub no question."""
    bob = await world.caller("hf_demo_bob")
    world.hub.log.clear()
    for model in (f"{PUBLIC}@refs/pr/7", "other/model"):
        found, source = await world.authorizer().authorize(bob, RepoRef.parse(model))
        assert isinstance(found, Denied)
        assert (found.code, source) == ("model_not_allowed", "cache")
    assert len(world.hub.log) == 0


async def test_a_pin_follows_a_rename(world: World) -> None:
    """The old name at an old commit is the new name at that commit."""
    old = world.at(BASE)
    world.hub.state.add_commit(BASE, {"README.md": b"new"})
    assert await world.decide(world.authorizer(), "hf_demo_bob", f"demo/old-llama@{old.revision}") == Access(
        old
    )


async def test_circles_are_told_for_a_minute(world: World) -> None:
    """A fault of the Hub's data does not heal at once."""
    for name, other in (("demo/a", "demo/b"), ("demo/b", "demo/a")):
        world.hub.state.add_repo(name, {"README.md": b""})
        world.hub.state.repos[name].id = other
    found, _ = await world.authorizer().authorize(await world.caller(), RepoRef.parse("demo/a"))
    assert isinstance(found, Denied)
    assert found.retry_after == 60


async def test_an_oauth_token_has_to_be_a_readers(world: World) -> None:
    """Each repo's own check shows whether an OAuth token may write; a missing repo needs no second one."""
    may = {"alice": ("repo.content.read", "repo.write")}
    world.hub.state.add_token("hf_oauth_tried", Token(user="alice", name="tried", role="none", scoped=may))
    authorizer = world.authorizer()
    assert await world.decide(authorizer, "hf_oauth_tried", PRIVATE) == "insufficient_scope"
    assert isinstance(await world.decide(authorizer, "hf_oauth_tried", BASE), Access)
    world.hub.log.clear()
    assert await world.decide(authorizer, "hf_oauth_tried", "alice/nothing") == "model_not_found"
    assert world.hub.log.paths() == ["GET /api/models/alice/nothing/auth-check"]


async def test_a_plain_no_leaves_the_identity_alone(world: World) -> None:
    """Only a 401 says that a token is no longer good."""
    authorizer = world.authorizer()
    await world.decide(authorizer, "hf_demo_bob", PRIVATE)
    assert (await world.identities.resolve(Secret("hf_demo_bob"), "192.0.2.1"))[1] == "cache"


async def test_an_adapter_that_names_no_base(world: World) -> None:
    """Without a base there is nothing to put it on, and `model` is at fault."""
    world.hub.state.add_repo("demo/odd", {"adapter_config.json": b"{}"})
    for config in (b"{}", b'{"base_model_name_or_path": "demo/public-lora"}'):
        world.hub.state.add_commit("demo/odd", {"adapter_config.json": config})
        found, _ = await world.authorizer().authorize(await world.caller(), RepoRef.parse("demo/odd"))
        assert isinstance(found, Denied)
        assert (found.code, found.param) == ("adapter_rejected", "model")


async def test_a_base_that_is_named_with_its_commit(world: World) -> None:
    """An adapter whose config pins its base gets that commit, whatever an engine runs."""
    pinned = world.at(BASE)
    moved = world.hub.state.add_commit(BASE, {"README.md": b"new"})
    world.running[BASE] = moved
    config = f'{{"base_model_name_or_path": "{pinned}"}}'.encode()
    world.hub.state.add_repo("demo/odd", {"adapter_config.json": config})
    found = await world.decide(world.authorizer(), "hf_demo_bob", "demo/odd")
    assert isinstance(found, Access)
    assert found.base == pinned


async def test_names_are_kept_for_a_bounded_number(world: World) -> None:
    """Twenty of each of a thousand callers, the latest; what one names pushes out nothing of another's."""
    authorizer = world.authorizer()
    for number in range(25):
        authorizer.name(f"demo/m{number}", "alice")
    assert list(authorizer._named["alice"]) == [f"demo/m{number}" for number in range(5, 25)]
    for number in range(1_005):
        authorizer.name("demo/m", f"caller-{number}")
    assert list(authorizer._named) == [f"caller-{number}" for number in range(5, 1_005)]
