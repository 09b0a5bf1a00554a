"""Whom a list, an override and a block mean, when names on the Hub change hands."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from structlog.testing import capture_logs

from hubgate.proxy.auth import accounts
from hubgate.proxy.auth.accounts import Account, Accounts, Standing, Told
from hubgate.proxy.auth.name_book import NameBook
from hubgate.proxy.auth.policy import CallerPolicy
from hubgate.proxy.errors import Denied
from hubgate.proxy.limits.allowances import Allowances
from hubgate.proxy.metrics.registry import Metrics
from hubgate.proxy.settings import Callers, Limits, Tokens
from tests.fakes.clock import START
from tests.fakes.identity import identity

A, B, C = "a" * 24, "b" * 24, "c" * 24
CONFLICT = "a configured name is used by another account"


class Operator:
    """One proxy with a configuration, over a file of names; `see` is what whoami tells of a caller."""

    def __init__(
        self, book: NameBook, shared: Any, metrics: Metrics, configuration: Mapping[str, Any]
    ) -> None:
        self.metrics = metrics
        self.callers, self.limits = self._read(configuration)
        self.accounts = Accounts(book, shared, metrics.name_conflicts, self.callers, self.limits)

    @staticmethod
    def _read(configuration: Mapping[str, Any]) -> tuple[Callers, Limits]:
        limits = {"overrides": configuration.get("overrides", {})}
        callers = {key: value for key, value in configuration.items() if key != "overrides"}
        return Callers.model_validate(callers or {"anyone": True}), Limits.model_validate(limits)

    def reload(self, **configuration: Any) -> None:
        self.callers, self.limits = self._read(configuration)
        self.accounts.replace(self.callers, self.limits)

    async def meet(self, name: str, account: str, *orgs: tuple[str, str]) -> Standing | Denied:
        met = [Account("user", name, account), *(Account("org", *org) for org in orgs)]
        return await self.accounts.meet(met)

    async def see(self, name: str, account: str, *orgs: tuple[str, str]) -> str:
        """What becomes of the caller: a code, or `ok`."""
        standing = await self.meet(name, account, *orgs)
        if isinstance(standing, Denied):
            return standing.code
        refused = self.refusal(name, standing)
        return refused.code if refused else "ok"

    def refusal(self, name: str, standing: Standing) -> Denied | None:
        who = identity(user=name, holds=standing.holds, known_as=standing.known_as)
        return CallerPolicy(self.callers, Tokens(), "").check(who, START)

    async def allowed(self, name: str, account: str, *orgs: tuple[str, str]) -> int:
        """The requests per minute of the caller."""
        standing = await self.meet(name, account, *orgs)
        assert isinstance(standing, Standing)
        who = identity(user=name, holds=standing.holds, known_as=standing.known_as)
        return Allowances(self.limits, ()).of(who).requests_per_minute


Start = Callable[..., Operator]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts a proxy with this configuration; a second one goes on with the names of the first."""
    async with AsyncExitStack() as stack:

        def started(shared: Any = None, **configuration: Any) -> Operator:
            book = NameBook(tmp_path / "names")
            stack.push_async_callback(book.close)
            return Operator(book, shared, Metrics(), configuration)

        yield started


async def test_a_listed_name_is_its_first_accounts(start: Start) -> None:
    """The account keeps its place when it is renamed; whoever takes the name inherits nothing."""
    proxy = start(users=["alice"])
    assert await proxy.see("alice", A) == "ok"
    assert await proxy.see("alicia", A) == "ok"
    assert await proxy.see("alice", B) == "caller_not_allowed"
    assert await proxy.see("alicia", C) == "caller_not_allowed"
    assert await proxy.see("alice", A) == "ok"


async def test_names_are_kept_over_a_restart(start: Start) -> None:
    """What was seen before counts after it, of users, organizations and overrides."""
    configuration = {
        "users": ["alice"],
        "orgs": ["acme"],
        "overrides": {"users": {"bob": {"requests_per_minute": 9}}},
    }
    before = start(**configuration)
    assert await before.see("alice", A) == "ok"
    assert await before.allowed("bob", B, ("acme", A)) == 9
    after = start(**configuration)
    assert await after.see("alice", C) == "caller_not_allowed"
    assert await after.see("eve", C, ("acme", B)) == "caller_not_allowed"
    assert await after.see("bobby", B, ("acme-two", A)) == "ok"
    assert await after.allowed("bobby", B) == 9
    assert await after.allowed("bob", C) == 600


async def test_an_organization_is_its_id(start: Start) -> None:
    """Its members stay listed when it is renamed; an organization that takes the name lists nobody."""
    proxy = start(orgs=["acme"])
    assert await proxy.see("bob", B, ("acme", A)) == "ok"
    assert await proxy.see("bob", B, ("acme-two", A)) == "ok"
    assert await proxy.see("eve", C, ("acme", C)) == "caller_not_allowed"
    assert await proxy.see("eve", C) == "caller_not_allowed"


async def test_an_organization_without_an_id_is_its_name(start: Start) -> None:
    """For as long as the Hub gives no id; once one was seen, the name alone is worth nothing."""
    proxy = start(orgs=["acme"])
    assert await proxy.see("bob", B, ("acme", "")) == "ok"
    assert await proxy.see("bob", B, ("acme", A)) == "ok"
    assert await proxy.see("bob", B, ("acme", "")) == "caller_not_allowed"


async def test_an_override_is_not_inherited(start: Start) -> None:
    """Neither a user's nor an organization's; a throttled account stays throttled under another name."""
    numbers = {"requests_per_minute": 5}
    proxy = start(anyone=True, overrides={"users": {"alice": numbers}, "orgs": {"acme": numbers}})
    assert [await proxy.allowed("alice", A), await proxy.allowed("bob", B, ("acme", A))] == [5, 5]
    assert [await proxy.allowed("alicia", A), await proxy.allowed("bob", B, ("acme-two", A))] == [5, 5]
    assert [await proxy.allowed("alice", C), await proxy.allowed("eve", C, ("acme", C))] == [600, 600]


@pytest.mark.parametrize("entry", [f"alice={A}", f"id:{A}"])
async def test_an_id_can_be_written(start: Start, entry: str) -> None:
    """It is then the account, whatever it is called, and whoever was seen under the name before."""
    proxy = start(users=["alice"])
    assert await proxy.see("alice", B) == "ok"
    proxy.reload(users=[entry], overrides={"users": {entry: {"requests_per_minute": 7}}})
    assert await proxy.see("alice", B) == "caller_not_allowed"
    assert await proxy.see("alice", A) == "ok"
    assert await proxy.see("someone", A) == "ok"
    assert [await proxy.allowed("someone", A), await proxy.allowed("alice", B)] == [7, 600]


async def test_an_id_that_is_written_once_holds_everywhere(start: Start) -> None:
    """The same name without it means that account too."""
    proxy = start(users=[f"alice={A}"], overrides={"users": {"alice": {"requests_per_minute": 7}}})
    assert [await proxy.allowed("alice", B), await proxy.allowed("alicia", A)] == [600, 7]


async def test_a_name_counts_from_when_it_is_listed(start: Start) -> None:
    """Who had the name before that is not meant: the operator knows the account of today."""
    proxy = start(anyone=True)
    assert await proxy.see("alice", A) == "ok"
    assert await proxy.see("alice", B) == "ok"
    proxy.reload(users=["alice"])
    assert await proxy.see("alice", B) == "ok"
    assert await proxy.see("alicia", A) == "caller_not_allowed"


async def test_who_is_not_listed_takes_no_name(start: Start) -> None:
    """A name that stands in no list is nobody's, and strangers are not remembered."""
    proxy = start(users=["alice"])
    assert await proxy.see("bob", B) == "caller_not_allowed"
    proxy.reload(users=["alice", "bob"])
    assert await proxy.see("bob", C) == "ok"
    assert await proxy.see("bob", B) == "caller_not_allowed"
    # What was never seen under a name is not blocked by it either.
    before = start(users=["alice"], block={"users": ["mallory"]})
    assert await before.see("eve", C) == "caller_not_allowed"
    before.reload(anyone=True, block={"users": ["eve"]})
    assert await before.see("eva", C) == "ok"


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("blocked", [["alice"], [f"alice={A}"], [f"id:{A}"]])
async def test_a_block_follows_the_account(start: Start, blocked: list[str], *, restart: bool) -> None:
    """A blocked user who takes another name is blocked under it too."""
    proxy = start(anyone=True, block={"users": blocked})
    assert await proxy.see("alice", A) == "caller_not_allowed"
    if restart:
        proxy = start(anyone=True, block={"users": blocked})
    assert await proxy.see("alicia", A) == "caller_not_allowed"
    assert await proxy.see("bob", B) == "ok"


@pytest.mark.parametrize("restart", [False, True])
async def test_a_block_reaches_who_was_renamed_before_it(start: Start, *, restart: bool) -> None:
    """The name of the audit is enough, although its bearer has another one by now."""
    proxy = start(anyone=True)
    assert await proxy.see("alice", A) == "ok"
    if restart:
        proxy = start(anyone=True)
    assert await proxy.see("alicia", A) == "ok"
    proxy.reload(anyone=True, block={"users": ["alice"]})
    assert await proxy.see("alicia", A) == "caller_not_allowed"


async def test_a_block_reaches_who_was_let_in_by_an_organization(start: Start) -> None:
    """Members are remembered by their own names, although those stand in no list."""
    proxy = start(orgs=["acme"])
    assert await proxy.see("alice", A, ("acme", C)) == "ok"
    proxy.reload(anyone=True, block={"users": ["alice"]})
    assert await proxy.see("alicia", A, ("acme", C)) == "caller_not_allowed"


async def test_a_block_reaches_who_was_not_listed_yet(start: Start) -> None:
    """Who comes while blocked is remembered, also where the lists would have been enough to refuse."""
    proxy = start(users=["bob"], block={"users": ["mallory"]})
    assert await proxy.see("mallory", A) == "caller_not_allowed"
    proxy.reload(anyone=True, block={"users": ["mallory"]})
    assert await proxy.see("mall", A) == "caller_not_allowed"


@pytest.mark.parametrize(
    ("blocked", "verdict"),
    [("alice", "caller_not_allowed"), (f"alice={A}", "caller_not_allowed"), (f"id:{A}", "ok")],
)
async def test_a_block_holds_for_the_name_too(start: Start, blocked: str, verdict: str) -> None:
    """Whoever takes the name of a blocked account is blocked as well, unless the id alone is written."""
    proxy = start(anyone=True, block={"users": [blocked]})
    assert await proxy.see("alice", A) == "caller_not_allowed"
    assert await proxy.see("alice", B) == verdict


async def test_a_block_follows_an_organization(start: Start) -> None:
    """Members of a blocked organization stay blocked when it is renamed, those of no other one."""
    proxy = start(anyone=True, block={"orgs": ["acme"]})
    assert await proxy.see("bob", B, ("acme", A)) == "caller_not_allowed"
    assert await proxy.see("eve", C, ("acme-two", A)) == "caller_not_allowed"
    assert await proxy.see("bob", B, ("labs", C)) == "ok"
    assert await proxy.see("acme", A) == "ok"  # a user of that name


async def test_the_operator_hears_of_another_account(start: Start) -> None:
    """Once in the log, with both ids, each time in the metric; the caller reads what has to be done."""
    proxy = start(users=["alice"], orgs=["acme"])
    await proxy.see("alice", A, ("acme", A))
    with capture_logs() as logged:
        for _ in range(3):
            standing = await proxy.meet("alice", B, ("acme", C))
    assert [(entry["kind"], entry["kept_for"], entry["seen_with"]) for entry in logged] == [
        ("user", A, B),
        ("org", A, C),
    ]
    assert {entry["event"] for entry in logged} == {CONFLICT}
    for kind in ("user", "org"):
        assert proxy.metrics.registry.get_sample_value("hubgate_name_conflicts_total", {"kind": kind}) == 3
    assert isinstance(standing, Standing)
    refused = proxy.refusal("alice", standing)
    assert refused is not None
    assert "is listed here for another account" in refused.message
    proxy.reload(anyone=True)
    with capture_logs() as logged:
        await proxy.meet("alice", C)
    assert logged == []  # the name means nothing any more


async def test_the_operator_hears_of_another_account_than_the_one_that_is_written(start: Start) -> None:
    """The id beside the name says whose it is; whoever else has it is told of."""
    proxy = start(users=[f"alice={A}"])
    with capture_logs() as logged:
        assert await proxy.see("alice", A) == "ok"
        assert await proxy.see("alice", B) == "caller_not_allowed"
    assert [(entry["event"], entry["kept_for"], entry["seen_with"]) for entry in logged] == [(CONFLICT, A, B)]


async def test_nobody_is_let_in_by_a_name_that_cannot_be_kept(start: Start) -> None:
    """With a full disk the first bearer of a name has to wait; who is known already does not."""
    proxy = start(users=["alice", "bob"])
    assert await proxy.see("alice", A) == "ok"
    full = patch("os.pwrite", side_effect=OSError(28, "No space left on device"))
    with full, capture_logs() as logged:
        assert [await proxy.see("bob", B) for _ in range(2)] == ["hub_unavailable"] * 2
        assert await proxy.see("alice", A) == "ok"
        assert await proxy.see("alicia", A) == "ok"
    told = {(entry["event"], entry["error"]) for entry in logged}
    assert told == {("names cannot be saved", "No space left on device")}
    assert await proxy.see("bob", B) == "ok"
    assert await start(users=["bob"]).see("bob", C) == "caller_not_allowed"


class Away:
    """Names that are shared with nobody right now."""

    async def owners(self) -> None:
        return None

    async def exchange(self, told: Sequence[Told]) -> None:
        del told


class Knows:
    """Names that other proxies know: of each account all, and at the start whose they are."""

    def __init__(self, owners: Mapping[str, str], names: Mapping[str, Sequence[tuple[str, str]]]) -> None:
        self.told: list[Sequence[Told]] = []
        self._owners = owners
        self._names = names

    async def owners(self) -> Mapping[str, str]:
        return self._owners

    async def exchange(self, told: Sequence[Told]) -> Sequence[Sequence[tuple[str, str]]]:
        self.told.append(told)
        return [self._names.get(one.id, ()) for one in told]


async def test_what_other_proxies_keep_is_kept_from_the_start_on(start: Start) -> None:
    """Names of users and of organizations are somebody's before anybody comes."""
    proxy = start(Knows({"user:alice": A, "org:acme": B}, {}), users=["alice"], orgs=["acme"])
    await proxy.accounts.start()
    assert await proxy.see("alice", C) == "caller_not_allowed"
    assert await proxy.see("bob", B, ("acme", C)) == "caller_not_allowed"
    assert await proxy.see("alicia", A) == "ok"
    assert await proxy.see("bob", B, ("acme-two", B)) == "ok"


async def test_a_name_that_another_proxy_saw_counts_here_too(start: Start) -> None:
    """A block reaches who was seen under it elsewhere, however many others are remembered here."""
    shared = Knows({}, {A: [("mallory", ""), ("mall", "")]})
    with patch("hubgate.proxy.auth.name_book.CAPACITY", 0):
        proxy = start(shared, anyone=True, block={"users": ["mallory"]})
        assert await proxy.see("mall", A) == "caller_not_allowed"


async def test_a_name_that_is_nobodys_elsewhere_is_given_here(start: Start) -> None:
    """The others were told that it is to be this account's, and do not object."""
    proxy = start(shared := Knows({}, {}), users=["alice"])
    assert await proxy.see("alice", A) == "ok"
    assert shared.told == [[Told("user", A, ("alice",), ("alice",))]]
    assert await proxy.see("alice", B) == "caller_not_allowed"


async def test_the_others_are_not_asked_of_what_has_no_id(start: Start) -> None:
    """There is nothing that they could know of it."""
    proxy = start(shared := Knows({}, {}), users=["alice"])
    assert await proxy.see("alice", "") == "ok"
    assert shared.told == []


async def test_a_name_that_is_written_with_its_id_is_told_to_others(start: Start) -> None:
    """So that a block of that name reaches the account on every proxy, whatever it is called there."""
    proxy = start(shared := Knows({}, {}), users=[f"alice={A}"])
    assert await proxy.see("alice", A) == "ok"
    assert shared.told[0][0].names == ("alice",)


async def test_while_the_others_cannot_be_asked_no_name_is_given_away(start: Start) -> None:
    """Another proxy may have given it to somebody else. Who is known here is let in or blocked as before."""
    before = start(users=["alice"], block={"users": ["mallory"]})
    assert await before.see("alice", A) == "ok"
    assert await before.see("mallory", B) == "caller_not_allowed"
    proxy = start(Away(), users=["alice", "bob"], block={"users": ["mallory"]})
    await proxy.accounts.start()
    assert await proxy.see("alicia", A) == "ok"
    assert await proxy.see("alice", C) == "caller_not_allowed"
    assert await proxy.see("mall", B) == "caller_not_allowed"
    assert await proxy.see("bob", C) == "hub_unavailable"


def test_what_can_be_written() -> None:
    """For each name alone that is kept, where it is and how to write it with its id."""
    callers = Callers.model_validate({"users": ["bob", "alice", f"eve={C}"], "orgs": ["acme", "unseen"]})
    few = {"requests_per_minute": 1}
    overrides = {"users": {"alice": few}, "orgs": {"acme": few}}
    limits = Limits.model_validate({"overrides": overrides, "organizations": {"acme": few}})
    owners = {"user:alice": A, "user:bob": B, "org:acme": C, "user:eve": A, "user:acme": A}
    assert accounts.to_write(callers, limits, owners) == [
        f"callers.users: alice={A}",
        f"callers.users: bob={B}",
        f"callers.orgs: acme={C}",
        f"limits.overrides.users: alice={A}",
        f"limits.overrides.orgs: acme={C}",
        f"limits.organizations: acme={C}",
    ]
