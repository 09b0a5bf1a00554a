"""The model itself: what it says of simple histories that a person can check."""

from tests.fakes.clock import START, Clock
from tests.isolation import scenario
from tests.isolation.access_model import AccessModel, History


def test_a_window_holds_all_that_held_in_it() -> None:
    """What began before a window and went on into it belongs to it; what ended before it does not."""
    clock = Clock(0)
    history = History(clock, "a")
    clock.advance(10)
    history.become("b")
    clock.advance(10)
    history.become("c")
    clock.advance(10)
    assert history.within(25) == {"c"}
    assert history.within(15) == {"b", "c"}
    assert history.within(0) == {"a", "b", "c"}
    assert history.now == "c"


def test_both_edges_belong_to_a_window() -> None:
    """At the moment of a change both values held."""
    clock = Clock(10)
    history = History(clock, "a")
    history.become("b")
    assert history.within(10) == {"a", "b"}
    assert history.within(10.1) == {"b"}


def test_what_does_not_change_is_not_told_twice() -> None:
    """Setting the same value again is no event."""
    clock = Clock(0)
    history = History(clock, True)  # noqa: FBT003 - the value
    clock.advance(1)
    history.become(True)  # noqa: FBT003 - the value
    assert history.told(0) == "True from -inf"


def test_the_owner_reads_a_private_repo_and_nobody_else_does() -> None:
    """Private means the user, or the organization that the token may read."""
    access_model = AccessModel(Clock())
    assert access_model.allowed("alice", scenario.PRIVATE, START)
    assert access_model.refusals("bob", scenario.PRIVATE, START) == {"model_not_found"}
    assert access_model.allowed("carol-0", scenario.TEAMS, START)
    assert access_model.refusals("alice-narrow", scenario.TEAMS, START) == {"model_not_found"}
    assert access_model.refusals("eve", scenario.MISSING, START) == {"model_not_found"}


def test_the_gate_is_each_callers_own() -> None:
    """Accepted, pending and never asked are told apart, and so is a token without the scope."""
    access_model = AccessModel(Clock())
    assert access_model.allowed("bob", scenario.GATED_BASE, START)
    assert access_model.refusals("carol-0", scenario.GATED_BASE, START) == {"access_pending"}
    assert access_model.refusals("eve", scenario.GATED_BASE, START) == {"model_gated"}
    assert access_model.refusals("alice-narrow", scenario.GATED_BASE, START) == {"insufficient_scope"}
    assert access_model.refusals("bob-unapproved", scenario.GATED_BASE, START) == {"access_denied"}


def test_a_revocation_ends_reading_when_its_window_is_over() -> None:
    """Right after a revocation both answers are right; later only the refusal is."""
    clock = Clock()
    access_model = AccessModel(clock)
    clock.advance(5)
    access_model.token("bob", good=False)
    clock.advance(5)
    assert access_model.allowed("bob", scenario.GATED_BASE, clock() - 6)
    assert not access_model.allowed("bob", scenario.GATED_BASE, clock() - 4)
    assert "invalid_api_key" in access_model.refusals("bob", scenario.GATED_BASE, clock() - 4)
    assert access_model.good("bob", clock() - 6) == {True, False}


def test_a_public_repo_needs_no_token_that_is_good() -> None:
    """The Hub lets anyone read it, so that only the identity's own bound ends a revoked caller's use."""
    access_model = AccessModel(Clock())
    access_model.token("bob", good=False)
    assert access_model.allowed("bob", scenario.PUBLIC, START + 1)
    assert access_model.good("bob", START + 1) == {False}


def test_a_gate_and_a_flip_change_the_reading_at_once() -> None:
    """Each event is an entry in the history of everyone whom it touches."""
    clock = Clock()
    access_model = AccessModel(clock)
    clock.advance(1)
    access_model.gate(scenario.GATED_BASE, "bob", "rejected")
    access_model.private(scenario.PUBLIC, private=True)
    clock.advance(1)
    assert access_model.refusals("bob", scenario.GATED_BASE, clock()) == {"access_denied"}
    assert access_model.refusals("bob", scenario.PUBLIC, clock()) == {"model_not_found"}
    assert access_model.allowed("bob", scenario.PUBLIC, clock() - 1)


def test_an_outage() -> None:
    """The Hub is away while it is down."""
    clock = Clock()
    access_model = AccessModel(clock)
    assert not access_model.unreachable(clock())
    clock.advance(1)
    access_model.outage("429")
    clock.advance(1)
    access_model.outage(None)
    assert access_model.unreachable(clock())
    clock.advance(1)
    assert not access_model.unreachable(clock())
    assert access_model.unreachable(clock() - 2)


def test_an_unknown_token_is_never_good() -> None:
    """A token that was not issued has no history."""
    access_model = AccessModel(Clock())
    assert access_model.good("mallory", START) == {False}
    assert access_model.refusals("mallory", scenario.PUBLIC, START) == {"invalid_api_key"}
    assert not access_model.allowed("mallory", scenario.PUBLIC, START)
