"""The list of lock-outs: whom an entry names, and for how long."""

import dataclasses
from typing import Any

import msgspec
import pytest

from hubgate.proxy.auth.block import LAST_TIME, Block, parse_who
from hubgate.proxy.auth.blocklist import LOCKED_OUT, Blocklist
from hubgate.proxy.auth.policy import CallerPolicy
from hubgate.proxy.settings import Callers, Tokens
from tests.cases import each
from tests.fakes.clock import START
from tests.fakes.identity import identity

FINGERPRINT = "0123456789abcdef"


def listed(who: str, until: float | None = None) -> Blocklist:
    """A list of one."""
    found = Blocklist()
    found.replace({who: Block(who, START, until, "admin@127.0.0.1", "")})
    return found


@each(
    ("who", "caller", "locked_out"),
    [
        ("mallory", {"user": "mallory"}, True),
        ("mallory", {"user": "Mallory"}, True),
        ("mallory", {"user": "mallory2"}, False),
        ("acme", {"orgs": frozenset({"other", "Acme"})}, True),
        ("acme", {"orgs": frozenset({"acme2"}), "user": "bob"}, False),
        ("mallory", {"user": "new", "known_as": frozenset({"user=5f0c", "user:new", "user:mallory"})}, True),
        ("5f0c", {"user": "new", "known_as": frozenset({"user=5F0C", "user:new"})}, True),
        ("user", {}, False),
        ("alice-ci", {"token_name": "alice-ci", "user": "bob"}, False),
        (FINGERPRINT, {"fingerprint": FINGERPRINT}, True),
        (FINGERPRINT, {"fingerprint": FINGERPRINT[::-1]}, False),
        ("key:job", {"user": "key:job", "kind": "key", "orgs": frozenset()}, True),
        ("job", {"user": "key:job", "kind": "key", "orgs": frozenset()}, False),
    ],
)
def test_whom_an_entry_names(who: str, caller: dict[str, Any], locked_out: bool) -> None:
    """A user by name, old name or id, members of an organization, one token, a local key; nobody else."""
    assert (listed(who).refusal(identity(**caller), START) is LOCKED_OUT) is locked_out


def test_names_are_made_ready_once() -> None:
    """However many names a caller has, a request only compares what was made with the identity."""
    one = identity(user="Mallory", fingerprint="ABCDEF", known_as=frozenset({"user:Mallory", "user=5F0C"}))
    assert one.called == {"mallory", "5f0c", "abcdef"}
    unready = dataclasses.replace(one, known_as=frozenset(), fingerprint="")
    assert listed("mallory").refusal(unready, START) is LOCKED_OUT


@each(
    ("until", "after", "locked_out"), [(None, 1e9, True), (60, 59.9, True), (60, 60, False), (60, 1e9, False)]
)
def test_how_long_an_entry_holds(until: float | None, after: float, locked_out: bool) -> None:
    """To the second before its end, though nobody has cleared the list; without an end for good."""
    blocklist = listed("alice", None if until is None else START + until)
    assert (blocklist.refusal(identity(), START + after) is not None) is locked_out


def test_while_it_cannot_be_told_who_is_locked_out_nobody_gets_in() -> None:
    """A proxy that has not read the list yet says so, and when to come again."""
    blocklist = Blocklist()
    assert blocklist.refusal(identity(), START) is None
    blocklist.known = False
    denied = blocklist.refusal(identity(), START)
    assert denied is not None
    assert (denied.code, denied.status, denied.retry_after) == ("hub_unavailable", 503, 5)


@each("kind", ["access_token", "oauth", "key"])
def test_the_policy_asks_the_list_first(kind: str) -> None:
    """Also where the caller is listed, and for local keys, to which no other rule applies."""
    policy = CallerPolicy(Callers(users=frozenset({"alice"})), Tokens(), "")
    policy.blocklist.replace(dict(listed("alice").blocks))
    assert policy.check(identity(kind=kind), START) is LOCKED_OUT


@each(
    ("text", "who"),
    [
        ("alice", "alice"),
        ("Alice-B", "alice-b"),
        ("a", "a"),
        ("_old.name", "_old.name"),
        (FINGERPRINT.upper(), FINGERPRINT),
        ("key:Nightly_job.1", "key:nightly_job.1"),
        ("a" * 96, "a" * 96),
        ("eyJ" + "a" * 11, "eyj" + "a" * 11),
    ],
)
def test_names_as_the_list_keeps_them(text: str, who: str) -> None:
    """Case does not count: nobody gets in by how a name was typed."""
    assert parse_who(text) == who


@each(
    "text",
    [
        "",
        " alice",
        "alice ",
        "alice\n",
        "org/name",
        "..",
        ".",
        "a b",
        "Ä",
        "key:",
        "key:key:a",
        "::number",
        "a" * 97,
        "eyJ!" + "a" * 12,
        "!alice",
    ],
)
def test_what_is_no_name(text: str) -> None:
    """Nothing that a path or a terminal would take for something else."""
    with pytest.raises(ValueError, match="must be the name"):
        parse_who(text)


@each(
    "text",
    [
        "hf_abcdefghijklmnopqrstuvwxyz",
        "key:hf_secret",
        "api_org_abcdef",
        "hf_oauth_eyJhbGciOi",
        "eyJ" + "a" * 12,
        "eyJhbGciOiJIUzI1NiIsInR5",
    ],
)
def test_a_token_is_told_and_not_repeated(text: str) -> None:
    """Who gives a token by mistake is told how to lock it out instead."""
    with pytest.raises(ValueError, match="hubgate fingerprint") as raised:
        parse_who(text)
    assert text[4:] not in str(raised.value)


@each(("field", "good", "bad"), [("since", 0, -1e-3), ("until", LAST_TIME, LAST_TIME + 1)])
def test_times_that_are_read_are_times(field: str, good: float, bad: float) -> None:
    """From 1970 to the end of the year 9999: the last that a trail can name."""
    block = {"who": "alice", "since": 1, "until": 1, "by": "", "reason": ""}
    assert getattr(msgspec.convert(block | {field: good}, Block), field) == good
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(block | {field: bad}, Block)
