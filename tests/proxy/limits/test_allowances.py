"""Whose numbers count: the key's own, else the user's, the organizations', the default."""

from typing import Any

import pytest

from hubgate.proxy.limits.allowances import Allowances
from hubgate.proxy.settings import Limits, LocalKey
from tests.cases import each
from tests.fakes.identity import identity

OVERRIDES: dict[str, Any] = {
    "users": {
        "alice": {"requests_per_minute": 60},
        "carol": {"tokens_per_minute": 7},
        "dora": {"weight": 50},
    },
    "orgs": {
        "acme": {"requests_per_minute": 1000, "concurrent_requests": 3},
        "labs": {"concurrent_requests": 200, "cold_loads_per_hour": 1},
        "paying": {"weight": 300},
        "trying": {"weight": 20},
    },
}


def key(name: str, **numbers: int) -> LocalKey:
    """A local key with limits of its own."""
    limits = numbers or None
    fields = {"name": name, "sha256": "0" * 64, "token": "service", "models": ["a/*"], "limits": limits}
    return LocalKey.model_validate(fields)


@each(
    ("user", "orgs", "expected"),
    [
        ("bob", [], (600, 1000, 64, 30, 100)),
        ("bob", ["other"], (600, 1000, 64, 30, 100)),
        ("alice", [], (60, 1000, 64, 30, 100)),
        ("Alice", [], (600, 1000, 64, 30, 100)),
        ("acme", [], (600, 1000, 64, 30, 100)),
        ("bob", ["alice"], (600, 1000, 64, 30, 100)),
        ("bob", ["acme"], (1000, 1000, 3, 30, 100)),
        ("bob", ["labs"], (600, 1000, 200, 1, 100)),
        ("bob", ["acme", "labs", "other"], (1000, 1000, 200, 1, 100)),
        ("alice", ["acme"], (60, 1000, 3, 30, 100)),
        ("carol", ["acme", "labs"], (1000, 7, 200, 1, 100)),
        ("bob", ["paying", "trying"], (600, 1000, 64, 30, 300)),
        ("bob", ["trying"], (600, 1000, 64, 30, 20)),
        ("dora", ["paying"], (600, 1000, 64, 30, 50)),
    ],
)
def test_each_number_is_found_by_itself(user: str, orgs: list[str], expected: tuple[int, ...]) -> None:
    """The user's number goes before the orgs', of which the largest counts, and that before the default."""
    settings = Limits.model_validate({"tokens_per_minute": 1000, "overrides": OVERRIDES})
    assert Allowances(settings, ()).of(identity(user=user, orgs=frozenset(orgs))) == expected


def test_a_keys_own_limits_go_first() -> None:
    """A local key has its own numbers, and the default for the others; a user of that name has not."""
    settings = Limits.model_validate({"overrides": {"users": {"key:ci": {"requests_per_minute": 9}}}})
    found = Allowances(settings, [key("ci", requests_per_minute=10), key("nightly")])
    who = {"kind": "key", "orgs": frozenset[str]()}
    assert found.of(identity(user="key:ci", token_name="ci", **who)).requests_per_minute == 10
    assert found.of(identity(user="key:ci", token_name="ci", **who)).concurrent_requests == 64
    assert found.of(identity(user="key:nightly", token_name="nightly", **who)).requests_per_minute == 600
    assert found.of(identity(user="bob", token_name="ci")).requests_per_minute == 600


def test_of_two_entries_for_one_account_the_larger_counts() -> None:
    """By its id twice, and by its id and a name that is kept for it."""
    ours = "5f0c1d2e3b4a59687786a5b4"
    users = {
        f"alice={ours}": {"requests_per_minute": 60, "tokens_per_minute": 2},
        f"id:{ours}": {"requests_per_minute": 50, "tokens_per_minute": 3},
        "alicia": {"tokens_per_minute": 4},
    }
    settings = Limits.model_validate({"overrides": {"users": users}})
    for holds, expected in ((f"user={ours}",), (60, 3)), ((f"user={ours}", "user:alicia"), (60, 4)):
        assert Allowances(settings, ()).of(identity(holds=frozenset(holds)))[:2] == expected


@each(
    "overrides",
    [
        {"groups": {}},
        {"users": {"alice": {"requests_per_hour": 1}}},
        {"users": {"alice": {}}},
        {"users": {"alice": {"requests_per_minute": None}}},
        {"users": {"alice": 60}},
        {"orgs": ["acme"]},
    ],
)
def test_what_overrides_nothing_is_refused(overrides: dict[str, Any]) -> None:
    """A typing error in an override must not leave somebody unthrottled in silence."""
    with pytest.raises(ValueError, match="validation error"):
        Limits.model_validate({"overrides": overrides})
