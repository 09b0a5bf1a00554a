"""The checker itself: what it says of single answers that a person can check."""

from dataclasses import replace

import pytest

from tests.fakes.clock import Clock
from tests.isolation import scenario
from tests.isolation.access_model import AccessModel
from tests.isolation.attempt import Attempt, Bounds, Loaded, Upstreamed
from tests.isolation.checker import Checker
from tests.isolation.delivery import Delivery
from tests.isolation.expected_cache import ExpectedCache

BOUNDS = Bounds(identity=60, access=12, denial=2, revision=720)
SHA = "a" * 40
PINNED = f"{scenario.OPEN_BASE}@{SHA}"
SEEN = Upstreamed(model=PINNED, grant_model=PINNED, sub="sub-of-bob", salt="s-bob", answered=True)
LOAD = Loaded(scenario.secret("bob"), "sub-of-bob", PINNED, None, None)


class Court:
    """A model, its clock and a checker."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.access_model = AccessModel(self.clock)
        self.access_model.commit(scenario.OPEN_BASE, SHA)
        subs = {user: f"sub-of-{user}" for user in scenario.USERS}
        expected_cache = ExpectedCache(self.clock, BOUNDS.identity, BOUNDS.access, BOUNDS.revision)
        self.checker = Checker(
            self.access_model, expected_cache, BOUNDS, Delivery(self.access_model, BOUNDS, subs)
        )

    def served(self, *upstream: Upstreamed, token: str = "bob", loads: tuple[Loaded, ...] = ()) -> str:
        attempt = self.attempt(token, 200)
        attempt.answered, attempt.upstream, attempt.loads = PINNED, upstream, loads
        return self.checker.check(attempt).kind

    def refused(self, code: str, token: str = "bob", repo: str = scenario.OPEN_BASE) -> str:
        attempt = self.attempt(token, 403)
        attempt.code, attempt.repo = code, repo
        return self.checker.check(attempt).kind

    def attempt(self, token: str, status: int) -> Attempt:
        return Attempt("id", token, scenario.OPEN_BASE, "", scenario.OPEN_BASE, self.clock(), status=status)


def test_what_the_caller_may_read_is_rightly_served() -> None:
    """One request upstream, under a grant of the caller's for the model that answers."""
    assert Court().served(SEEN) == "served"
    assert Court().served(SEEN, loads=(LOAD,)) == "served"


@pytest.mark.parametrize(
    "seen",
    [
        replace(SEEN, sub="sub-of-alice"),
        replace(SEEN, grant_model=f"{scenario.PUBLIC}@{SHA}"),
        replace(
            SEEN, model=f"{scenario.OPEN_BASE}@{'b' * 40}", grant_model=f"{scenario.OPEN_BASE}@{'b' * 40}"
        ),
        replace(SEEN, model=f"{scenario.PUBLIC}@{SHA}", grant_model=f"{scenario.PUBLIC}@{SHA}"),
    ],
)
def test_another_grant_or_model_is_wrong(seen: Upstreamed) -> None:
    """Another caller's name, another model's grant, a commit that never was main, another repo."""
    assert Court().served(seen) == "wrongly served"


def test_requests_that_nobody_answers_for_are_wrong() -> None:
    """Served without an engine, twice by one, or refused although one answered."""
    court = Court()
    assert court.served() == "wrongly served"
    assert court.served(SEEN, SEEN) == "wrongly served"
    attempt = court.attempt("bob", 403)
    attempt.upstream = (SEEN,)
    assert court.checker.check(attempt).kind == "wrongly served"


@pytest.mark.parametrize(
    "load",
    [replace(LOAD, token="hf_of_alice"), replace(LOAD, sub="sub-of-alice"), replace(LOAD, adapter=PINNED)],
)
def test_a_load_for_another_is_wrong(load: Loaded) -> None:
    """A load carries this caller's token and name, and this model's repos."""
    assert Court().served(SEEN, loads=(load,)) == "wrongly served"


def test_a_cache_salt_is_one_identitys_own() -> None:
    """It may not change for an identity, nor be the same for two."""
    court = Court()
    assert court.served(SEEN) == "served"
    assert court.served(replace(SEEN, salt="another")) == "wrongly served"
    assert court.served(replace(SEEN, sub="sub-of-eve"), token="eve") == "wrongly served"


def test_the_bounds_decide_after_a_revocation() -> None:
    """Served within `identity_ttl` after it, refused at once, and never served later."""
    court = Court()
    court.clock.advance(1)
    court.access_model.token("bob", good=False)
    court.clock.advance(59)
    assert court.served(SEEN) == "served"
    assert court.refused("invalid_api_key") == "refused"
    court.clock.advance(2)
    assert court.served(SEEN) == "wrongly served"
    assert court.refused("invalid_api_key") == "refused"


def test_a_load_does_not_stretch_the_bound() -> None:
    """Access must have held within `access_ttl` of the end of the load, not of the request's beginning."""
    court = Court()
    began = court.attempt("eve", 200)
    court.clock.advance(1)
    court.access_model.private(scenario.OPEN_BASE, private=True)
    court.clock.advance(30)
    load = replace(LOAD, token=scenario.secret("eve"), sub="sub-of-eve", done_at=court.clock())
    began.answered, began.loads = PINNED, (load,)
    began.upstream = (replace(SEEN, sub="sub-of-eve"),)
    assert court.checker.check(began).kind == "wrongly served"


def test_a_refusal_needs_its_own_reason() -> None:
    """The code must be one that the Hub or the policy gave cause for, and an outage must have been."""
    court = Court()
    assert court.refused("model_gated") == "wrongly refused"
    assert court.refused("model_gated", "eve", scenario.GATED_BASE) == "refused"
    assert court.refused("model_not_found", "bob", scenario.PRIVATE) == "refused"
    assert court.refused("insufficient_scope", "wanda") == "refused"
    assert court.refused("hub_unavailable") == "wrongly refused"
    court.access_model.outage("503")
    assert court.refused("hub_unavailable") == "unavailable"
