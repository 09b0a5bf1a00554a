"""Which revisions are served, and at which commit: facts that are shared, refusals that are not."""

import asyncio
from typing import Any

import pytest

from hubgate.demo.hub import DemoHub
from hubgate.proxy.auth.revisions import Revisions, shareable
from hubgate.proxy.errors import Denied
from hubgate.proxy.hub.cache import Cache
from hubgate.proxy.hub.client import HubClient
from hubgate.proxy.hub.schemas import Snapshot, unavailable
from hubgate.wire.repo import RepoRef
from hubgate.wire.secret import Secret
from tests.fakes.clock import Clock
from tests.fakes.hub_client import histories

LORA = RepoRef.parse("alice/pirate-lora")
PUBLIC = RepoRef.parse("demo/public-lora")
ALICE, BOB = Secret("hf_demo_alice"), Secret("hf_demo_bob")


class World:
    """A demo Hub with more branches, and the part under test."""

    def __init__(self, hub: DemoHub, client: HubClient, clock: Clock) -> None:
        self.hub = hub
        self._client = client
        self._clock = clock
        state = hub.state
        self.first = state.sha(LORA.id, "v1")
        self.main = state.sha(LORA.id)
        self.pull = state.sha(LORA.id, "refs/pr/7")
        self.side = state.add_commit(
            LORA.id, {"README.md": b"side"}, ref="refs/heads/dev/side", parent=self.first
        )
        self.tip = state.add_commit(LORA.id, {"README.md": b"more"}, ref="refs/heads/dev/side")

    def revisions(self, *allowed: str) -> Revisions:
        def life(fact: object) -> float:
            return 0 if isinstance(fact, Denied) else 3600

        def cache() -> Cache[str, Any]:
            return Cache(capacity=100, ttl=life, clock=self._clock)

        return Revisions(
            self._client,
            lambda: frozenset(allowed),
            snapshots=cache(),
            lineages=cache(),
            histories=histories(self._client, self._clock),
        )

    async def verdict(self, revision: str | None, *allowed: str) -> str:
        """The sha that a revision means, or the code of its refusal."""
        repo = RepoRef(LORA.org, LORA.name, revision)
        revisions = self.revisions(*allowed)
        found: object = revisions.refuse(repo) or await revisions.snapshot(ALICE, repo)
        return found.code if isinstance(found, Denied) else str(getattr(found, "repo", "?")).partition("@")[2]


@pytest.fixture
def world(hub: DemoHub, client: HubClient, clock: Clock) -> World:
    return World(hub, client, clock)


@pytest.mark.parametrize("allowed", ["main", "tags", "branches", "any"])
async def test_main_is_always_served(world: World, allowed: str) -> None:
    """The default branch, named or not, is what a model's name means."""
    assert await world.verdict(None, allowed) == world.main
    assert await world.verdict("main", allowed) == world.main


@pytest.mark.parametrize(
    "allowed", [("main",), ("tags",), ("branches",), ("any",), ("main", "tags", "branches")]
)
async def test_pull_requests_are_never_served(world: World, allowed: tuple[str, ...]) -> None:
    """Anyone can open one: neither its ref nor its bare sha is served, whatever is allowed."""
    asked = len(world.hub.log)
    assert await world.verdict("refs/pr/7", *allowed) == "model_not_allowed"
    assert len(world.hub.log) == asked
    assert await world.verdict(world.pull, *allowed) == "model_not_allowed"


@pytest.mark.parametrize(
    ("revision", "allowed", "good"),
    [
        ("v1", ("main",), False),
        ("v1", ("tags",), True),
        ("v1", ("branches",), False),
        ("v1", ("any",), True),
        ("dev/side", ("main",), False),
        ("dev/side", ("main", "tags"), False),
        ("dev/side", ("branches",), True),
        ("dev/side", ("any",), True),
        ("nowhere", ("any",), False),
        ("refs/heads/main", ("any",), False),
        ("refs/tags/v1", ("any",), False),
    ],
)
async def test_tags_and_branches_when_allowed(
    world: World, revision: str, allowed: tuple[str, ...], *, good: bool
) -> None:
    """A tag or a branch is served where the operator allows its kind."""
    meant = {"v1": world.first, "dev/side": world.tip}.get(revision, "")
    assert await world.verdict(revision, *allowed) == (meant if good else "model_not_allowed")


@pytest.mark.parametrize(
    ("commit", "allowed", "good"),
    [
        ("main", ("main",), True),
        ("first", ("main",), True),
        ("tip", ("main",), False),
        ("side", ("main", "tags"), False),
        ("first", ("tags",), True),
        ("main", ("tags",), False),
        ("tip", ("branches",), True),
        ("side", ("branches",), True),
        ("main", ("branches",), True),
        ("side", ("any",), True),
        ("first", ("any",), True),
    ],
)
async def test_shas_must_lie_in_an_allowed_history(
    world: World, commit: str, allowed: tuple[str, ...], *, good: bool
) -> None:
    """A bare sha is served if it is an allowed tag, or in the history of an allowed branch."""
    sha = str(getattr(world, commit))
    assert await world.verdict(sha, *allowed) == (sha if good else "model_not_allowed")


async def test_an_unknown_sha_is_not_served(world: World) -> None:
    """A sha that no history holds is not asked for as a revision."""
    assert await world.verdict("0" * 40, "any") == "model_not_allowed"
    assert not [path for path in world.hub.log.paths() if "/revision/" + "0" * 40 in path]


async def test_facts_are_shared(world: World) -> None:
    """What one caller asked, the next one is told without the Hub."""
    revisions = world.revisions("main")
    first = await revisions.snapshot(ALICE, PUBLIC)
    asked = len(world.hub.log)
    assert await revisions.snapshot(BOB, PUBLIC) == first
    assert len(world.hub.log) == asked


async def test_refusals_are_not_shared(world: World) -> None:
    """A refusal of one caller's token says nothing to the next."""
    revisions = world.revisions("main")
    denied = await revisions.snapshot(BOB, LORA)
    assert isinstance(denied, Denied)
    assert denied.code == "model_not_found"
    assert isinstance(await revisions.snapshot(ALICE, LORA), Snapshot)


async def test_a_refusal_in_flight_is_not_shared(world: World) -> None:
    """Who waits for another's question and sees it refused asks with their own token."""
    revisions = world.revisions("main")
    world.hub.state.set_down("hang")
    bob = asyncio.create_task(revisions.snapshot(BOB, LORA))
    await world.hub.state.outages.wait_held(1)
    alice = asyncio.create_task(revisions.snapshot(ALICE, LORA))
    await asyncio.sleep(0)
    world.hub.state.set_down(None)
    assert isinstance(await bob, Denied)
    assert isinstance(await alice, Snapshot)


async def test_one_accounts_silence_is_not_anothers(world: World) -> None:
    """Who waits for a question that came to nothing for its asker's budget asks with their own token."""
    revisions = world.revisions("main")
    world.hub.state.set_down("429", times=1)
    bob = asyncio.create_task(revisions.snapshot(BOB, PUBLIC))
    await asyncio.sleep(0)
    alice = asyncio.create_task(revisions.snapshot(ALICE, PUBLIC))
    denied = await bob
    assert isinstance(denied, Denied)
    assert denied.code == "hub_unavailable"
    assert isinstance(await alice, Snapshot)
    assert len(world.hub.log) >= 2


async def test_an_outage_is_not_kept(world: World) -> None:
    """After an outage a revision is asked for again."""
    revisions = world.revisions("main")
    world.hub.state.set_down("503")
    denied = await revisions.snapshot(ALICE, LORA)
    assert isinstance(denied, Denied)
    assert denied.code == "hub_unavailable"
    world.hub.state.set_down(None)
    assert isinstance(await revisions.snapshot(ALICE, LORA), Snapshot)


async def test_a_fact_has_a_life(world: World, clock: Clock) -> None:
    """A branch that moved is noticed when the fact's life is over."""
    revisions = world.revisions("main")
    before = await revisions.snapshot(ALICE, LORA)
    moved = world.hub.state.add_commit(LORA.id, {"README.md": b"moved"})
    assert await revisions.snapshot(ALICE, LORA) == before
    clock.advance(3600)
    after = await revisions.snapshot(ALICE, LORA)
    assert isinstance(after, Snapshot)
    assert after.repo.revision == moved


@pytest.mark.parametrize(
    ("fact", "shared"),
    [
        (True, True),
        (False, True),
        (Snapshot(RepoRef("a", "b"), adapter=False), True),
        (unavailable(), True),
        (unavailable(own=True), False),
        (Denied("model_not_found", ""), False),
        (Denied("invalid_api_key", ""), False),
    ],
)
def test_what_is_shared(fact: object, shared: bool) -> None:
    """Facts and outages are everybody's; what one token or one account was told is its own."""
    assert shareable(fact) is shared


async def test_a_revision_that_is_not_served_is_a_fault_of_the_name(world: World) -> None:
    """OpenAI's clients are shown which parameter to change, by every way to that refusal."""
    revisions = world.revisions("main")
    for revision in ("refs/pr/1", "v1"):
        refused = revisions.refuse(RepoRef("demo", "tiny-llama", revision))
        assert refused is not None
        assert (refused.code, refused.param) == ("model_not_allowed", "model")


@pytest.mark.parametrize("revision", ["v1", "first"])
async def test_what_is_forgotten_is_asked_again(world: World, revision: str) -> None:
    """After `forget_all` the Hub says anew what the refs are, their histories, and what a revision means."""
    revisions = world.revisions("tags", "main")
    repo = RepoRef(LORA.org, LORA.name, {"first": world.first}.get(revision, revision))
    assert not isinstance(await revisions.snapshot(ALICE, repo), Denied)
    asked = world.hub.log.paths()
    assert not isinstance(await revisions.snapshot(ALICE, repo), Denied)
    assert world.hub.log.paths() == asked
    revisions.forget_all()
    assert not isinstance(await revisions.snapshot(ALICE, repo), Denied)
    assert world.hub.log.paths() == [*asked, *asked]


@pytest.mark.parametrize(("revision", "question"), [("v1", "refs"), ("first", "commits/main")])
async def test_an_outage_is_no_verdict(world: World, revision: str, question: str) -> None:
    """Where the Hub does not say whether a revision is an allowed one, that is what the caller is told."""
    asked = {"first": world.first}.get(revision, revision)
    world.hub.state.set_down("503", paths=f"*/{question}")
    assert await world.verdict(asked, "any") == "hub_unavailable"
    world.hub.state.set_down(None)
    assert await world.verdict(asked, "any") == world.first
