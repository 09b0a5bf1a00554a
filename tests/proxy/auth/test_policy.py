"""The operator's policy: who may call, with which tokens, for which models."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubgate.proxy.auth.policy import CLOCK_LEEWAY_DAYS, READ_PERMISSIONS, CallerPolicy, ModelPolicy
from hubgate.proxy.settings import Callers, Models, Tokens
from hubgate.wire.repo import RepoRef
from tests.cases import each
from tests.fakes.clock import START
from tests.fakes.identity import DAY, identity

ADVICE = "Make another one."


def decide(callers: dict[str, Any] | None = None, tokens: dict[str, Any] | None = None, **who: Any) -> str:
    """What the policy says of a caller: a code, or `ok`."""
    policy = CallerPolicy(Callers(**(callers or {"anyone": True})), Tokens(**(tokens or {})), ADVICE)
    refused = policy.check(identity(**who), START)
    return refused.code if refused else "ok"


@each(
    ("callers", "verdict"),
    [
        ({"anyone": True}, "ok"),
        ({"users": ["alice"]}, "ok"),
        ({"users": ["bob"]}, "caller_not_allowed"),
        ({"users": ["Alice"]}, "caller_not_allowed"),
        ({"users": ["acme"]}, "caller_not_allowed"),
        ({"orgs": ["acme"]}, "ok"),
        ({"orgs": ["alice"]}, "caller_not_allowed"),
        ({"orgs": ["acm"]}, "caller_not_allowed"),
        ({"users": ["bob"], "orgs": ["acme"]}, "ok"),
    ],
)
def test_only_listed_callers_pass(callers: dict[str, Any], verdict: str) -> None:
    """A caller is listed by user, or by an organization that whoami names, or everybody is."""
    assert decide(callers) == verdict


@each(
    ("known_as", "told"),
    [
        (set(), "The operator of this service has not listed alice."),
        ({"user:bob"}, "The name bob is listed here for another account of the Hub; "),
        ({"user:bob", "org:acme"}, "The name acme is listed here for another account of the Hub; "),
    ],
)
def test_who_is_not_listed_is_told_why(known_as: set[str], told: str) -> None:
    """Somebody else's name is a matter for the operator, who has to write an id."""
    policy = CallerPolicy(Callers(users=frozenset({"bob", "eve"}), orgs=frozenset({"acme"})), Tokens(), "")
    refused = policy.check(identity(known_as=frozenset(known_as), holds=frozenset()), START)
    assert refused is not None
    assert refused.message.startswith(told)


@each("callers", [{}, {"users": []}, {"anyone": False}, {"anyone": True, "users": ["a"]}])
def test_callers_must_be_said(callers: dict[str, Any]) -> None:
    """Empty means nobody, and refuses to start; so does saying two things at once."""
    with pytest.raises(ValueError, match=r"nobody|meaningless"):
        Callers(**callers)


@each(
    ("role", "verdict"),
    [
        ("read", "ok"),
        ("fineGrained", "ok"),
        ("write", "insufficient_scope"),
        ("god", "insufficient_scope"),
        ("", "insufficient_scope"),
        ("Read", "insufficient_scope"),
        ("something-new", "insufficient_scope"),
    ],
)
def test_strong_and_unknown_roles_are_refused(role: str, verdict: str) -> None:
    """Least privilege is an allow-list: what is not known to be a read is a write."""
    assert decide(role=role) == verdict


@given(st.frozensets(st.sampled_from([*READ_PERMISSIONS, "repo.write", "inference.serverless.write", "new"])))
def test_fine_grained_tokens_may_only_read(permissions: frozenset[str]) -> None:
    """A fine-grained token passes if each of its permissions is a known read."""
    found = decide(role="fineGrained", permissions=permissions)
    assert (found == "ok") == (permissions <= READ_PERMISSIONS)


def test_an_operator_can_allow_writes() -> None:
    """With `write` among the roles, write tokens pass, fine-grained ones too."""
    tokens = {"roles": ["read", "write", "fineGrained"]}
    assert decide(None, tokens, role="write") == "ok"
    assert decide(None, tokens, role="fineGrained", permissions=frozenset({"repo.write"})) == "ok"
    assert decide(None, tokens, role="god") == "insufficient_scope"


@each(
    ("days", "when_old", "verdict"),
    [
        (0, "deny", "ok"),
        (89.9, "deny", "ok"),
        (90, "deny", "ok"),
        (90.1, "deny", "token_too_old"),
        (5000, "deny", "token_too_old"),
        (90.1, "warn", "ok"),
        (-0.001, "deny", "ok"),
        (-1, "deny", "token_too_old"),
        (-1, "warn", "token_too_old"),
    ],
)
def test_age_is_limited(days: float, when_old: str, verdict: str) -> None:
    """A token over the limit is refused or warned about; one from the future is not believed."""
    assert decide(None, {"when_old": when_old}, created_at=START - days * DAY) == verdict


@each("when_old", ["deny", "warn"])
def test_a_token_without_a_date_is_refused(when_old: str) -> None:
    """What the Hub gives no date for could be of any age."""
    assert decide(None, {"when_old": when_old}, created_at=None) == "token_too_old"


@each(
    ("oauth", "expires", "verdict"),
    [
        ("deny", START + 60, "insufficient_scope"),
        ("allow", START + 60, "ok"),
        ("allow", START, "token_expired"),
        ("allow", START - 60, "token_expired"),
        ("allow", None, "token_expired"),
    ],
)
def test_oauth_is_allowed_or_not(oauth: str, expires: float | None, verdict: str) -> None:
    """OAuth tokens have no role: the operator says yes or no, and their expiry counts."""
    who = {"kind": "oauth", "role": "", "created_at": None, "expires_at": expires}
    assert decide(None, {"oauth": oauth}, **who) == verdict


def test_other_kinds_of_token_are_refused() -> None:
    """A kind that nobody knew when this was written is refused."""
    assert decide(kind="other") == "insufficient_scope"


def test_a_local_key_is_the_operators_own() -> None:
    """A key of the proxy's own needs no listing and has no age."""
    assert decide({"users": ["bob"]}, kind="key", user="key:ci", role="", created_at=None) == "ok"


def served(models: dict[str, Any], repo: str, globs: tuple[str, ...] = ()) -> bool:
    """Whether a repo is served to a caller whose key is bound to these globs."""
    refused = ModelPolicy(Models(**models)).check(identity(models=globs), RepoRef.parse(repo))
    assert refused is None or refused.code == "model_not_allowed"
    return refused is None


@each(
    ("allow", "deny", "repo", "good"),
    [
        (["demo/*"], [], "demo/x", True),
        (["demo/*"], [], "demos/x", False),
        (["demo/*"], [], "ademo/x", False),
        (["*/*"], [], "any/thing", True),
        (["*/llama"], [], "any/llama", True),
        (["*/llama"], [], "any/llama-2", False),
        (["demo/llama-?"], [], "demo/llama-2", True),
        (["demo/llama-?"], [], "demo/llama-22", False),
        (["demo/a.b"], [], "demo/aXb", False),
        (["*/*"], ["demo/*"], "demo/x", False),
        (["demo/x"], ["*/x"], "demo/x", False),
        (["Demo/*"], [], "demo/x", False),
    ],
)
def test_models_are_allowed_by_globs(allow: list[str], deny: list[str], repo: str, *, good: bool) -> None:
    """A repo is served if a glob allows it and none denies it; a glob matches the whole name."""
    assert served({"allow": allow, "deny": deny}, repo) is good
    assert served({"allow": allow, "deny": deny}, f"{repo}@main") is good


def test_a_keys_globs_only_narrow() -> None:
    """A key bound to some models gets those that the proxy serves, and no others."""
    models = {"allow": ["demo/*"]}
    assert served(models, "demo/x", ("demo/x",))
    assert not served(models, "demo/y", ("demo/x",))
    assert not served(models, "alice/x", ("alice/*", "*/*"))


@each("glob", ["demo", "demo/", "/x", "a/b/c", "demo/x@main", "demo/[ab]", "dé/x", "a/--b", ""])
def test_globs_are_names_with_wildcards(glob: str) -> None:
    """What could never match a repo, or mean more than it says, is refused at the start."""
    with pytest.raises(ValueError, match="org/name"):
        Models(allow=(glob,))


def test_the_configured_models_are_those_without_wildcards() -> None:
    """Listings begin with the names that the operator wrote out."""
    assert ModelPolicy(Models(allow=("demo/*", "demo/x", "a/b?"))).configured == ("demo/x",)


def policy(callers: dict[str, Any] | None = None, **tokens: Any) -> CallerPolicy:
    return CallerPolicy(Callers(**(callers or {"anyone": True})), Tokens(**tokens), ADVICE)


def test_the_permissions_that_read() -> None:
    """The allow-list of the Hub's documentation, word for word; nothing in it writes."""
    assert {
        "repo.content.read",
        "repo.access.read",
        "collection.read",
        "org.read",
        "user.billing.read",
        "user.webhooks.read",
    } == READ_PERMISSIONS


@each(
    ("block", "verdict"),
    [
        ({"users": ["alice"]}, "caller_not_allowed"),
        ({"orgs": ["acme"]}, "caller_not_allowed"),
        ({"fingerprints": ["f" * 16]}, "caller_not_allowed"),
        ({"users": ["acme"], "orgs": ["alice"], "fingerprints": ["e" * 16]}, "ok"),
    ],
)
@each("kind", ["access_token", "key"])
def test_a_block_counts_before_everything(block: dict[str, Any], verdict: str, kind: str) -> None:
    """A user, an organization or a token that is locked out is refused, listed or not, and so is a key."""
    for listed in ({"anyone": True}, {"users": ["alice"]}):
        assert decide({**listed, "block": block}, kind=kind) == verdict


def test_what_counts_is_replaced_at_once() -> None:
    """After a reload the new rules decide, those of callers and those of tokens."""
    rules = policy({"users": ["alice"]})
    assert rules.check(identity(), START) is None
    rules.replace(Callers(users=frozenset({"bob"})), Tokens())
    assert rules.check(identity(), START) is not None
    rules.replace(Callers(users=frozenset({"alice"})), Tokens(max_age_days=1))
    refused = rules.check(identity(), START)
    assert refused is not None
    assert refused.code == "token_too_old"
    models = ModelPolicy(Models(allow=("demo/*",), deny=("demo/x",)))
    models.replace(Models(allow=("acme/x",)))
    assert models.models.allow == models.configured == ("acme/x",)
    assert models.check(identity(), RepoRef("acme", "x")) is None
    assert models.check(identity(), RepoRef("demo", "y")) is not None


def test_an_operator_can_accept_single_permissions() -> None:
    """`extra_permissions` adds to the reads, and to nothing else."""
    tokens = {"extra_permissions": ["inference.serverless.write"]}
    may = frozenset({"org.read", "inference.serverless.write"})
    assert decide(None, tokens, role="fineGrained", permissions=may) == "ok"
    assert decide(None, tokens, role="fineGrained", permissions=may | {"repo.write"}) == "insufficient_scope"
    assert decide(None, tokens, role="write", permissions=may) == "insufficient_scope"


def test_permissions_count_for_fine_grained_tokens_alone() -> None:
    """A read token has none, whatever whoami may list beside it."""
    assert decide(role="read", permissions=frozenset({"repo.write"})) == "ok"


def test_a_refusal_names_at_most_five_permissions() -> None:
    """Enough to know what to change; the Hub's list may be long."""
    many = frozenset(f"p{n}.write" for n in range(7))
    refused = policy().check(identity(role="fineGrained", permissions=many), START)
    assert refused is not None
    assert "(p0.write, p1.write, p2.write, p3.write, p4.write)" in refused.message


@each(("role", "told"), [("god", "god"), ("", "unknown")])
def test_a_refusal_names_the_role(role: str, told: str) -> None:
    """A role that the Hub does not give is called unknown."""
    refused = policy().check(identity(role=role), START)
    assert refused is not None
    assert f"role is {told}," in refused.message


@each(
    ("ahead", "verdict"), [(4.9 * 60, "ok"), (5.1 * 60, "token_too_old"), (0, "ok"), (3600, "token_too_old")]
)
def test_clocks_may_differ_by_five_minutes(ahead: float, verdict: str) -> None:
    """A token made seconds ago on a Hub whose clock is ahead is good; one from the future is not."""
    assert decide(created_at=START + ahead) == verdict
    assert pytest.approx(300 / 86400) == CLOCK_LEEWAY_DAYS


@each(("days", "over"), [(None, False), (-1, False), (0, False), (90, False), (90.001, True), (91.9, True)])
def test_what_is_over_age(days: float | None, over: bool) -> None:
    """More than `max_age_days`, to the moment; a token without a date is refused and not counted."""
    who = identity(created_at=None if days is None else START - days * DAY)
    rules = policy(when_old="warn")
    told = rules.notice(who, START)
    assert (told is not None) is over
    if told is not None:
        assert told.startswith(f"token is {int(days or 0)} days old")
        assert "90 days is the limit" in told


def test_an_old_token_is_told_its_age() -> None:
    """Whole days, and the limit."""
    refused = policy().check(identity(created_at=START - 91.9 * DAY), START)
    assert refused is not None
    assert "91 days old; here 90 days" in refused.message


@each("expires", [START + 0.001, START + 10_000 * DAY])
def test_an_oauth_token_has_no_age(expires: float) -> None:
    """It is good to its last moment, however long ago it was made."""
    who = {"kind": "oauth", "role": "", "created_at": START - 5000 * DAY, "expires_at": expires}
    assert decide(None, {"oauth": "allow"}, **who) == "ok"


def test_a_model_that_is_not_served_is_a_fault_of_the_name() -> None:
    """OpenAI's clients are shown which parameter to change."""
    refused = ModelPolicy(Models(allow=("demo/x",))).check(identity(), RepoRef("demo", "y"))
    assert refused is not None
    assert (refused.code, refused.param) == ("model_not_allowed", "model")
