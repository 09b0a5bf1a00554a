"""The oracle itself: what it says of simple histories that a person can check."""

from tests.fakes.clock import START, Clock
from tests.isolation import cast
from tests.isolation.oracle import History, Oracle


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
    oracle = Oracle(Clock())
    assert oracle.allowed("alice", cast.PRIVATE, START)
    assert oracle.refusals("bob", cast.PRIVATE, START) == {"model_not_found"}
    assert oracle.allowed("carol-0", cast.TEAMS, START)
    assert oracle.refusals("alice-narrow", cast.TEAMS, START) == {"model_not_found"}
    assert oracle.refusals("eve", cast.MISSING, START) == {"model_not_found"}


def test_the_gate_is_each_callers_own() -> None:
    """Accepted, pending and never asked are told apart, and so is a token without the scope."""
    oracle = Oracle(Clock())
    assert oracle.allowed("bob", cast.GATED_BASE, START)
    assert oracle.refusals("carol-0", cast.GATED_BASE, START) == {"access_pending"}
    assert oracle.refusals("eve", cast.GATED_BASE, START) == {"model_gated"}
    assert oracle.refusals("alice-narrow", cast.GATED_BASE, START) == {"insufficient_scope"}
    assert oracle.refusals("bob-unapproved", cast.GATED_BASE, START) == {"access_denied"}


def test_a_revocation_ends_reading_when_its_window_is_over() -> None:
    """Right after a revocation both answers are right; later only the refusal is."""
    clock = Clock()
    oracle = Oracle(clock)
    clock.advance(5)
    oracle.token("bob", good=False)
    clock.advance(5)
    assert oracle.allowed("bob", cast.GATED_BASE, clock() - 6)
    assert not oracle.allowed("bob", cast.GATED_BASE, clock() - 4)
    assert "invalid_api_key" in oracle.refusals("bob", cast.GATED_BASE, clock() - 4)
    assert oracle.good("bob", clock() - 6) == {True, False}


def test_a_public_repo_needs_no_token_that_is_good() -> None:
    """The Hub lets anyone read it, so that only the identity's own bound ends a revoked caller's use."""
    oracle = Oracle(Clock())
    oracle.token("bob", good=False)
    assert oracle.allowed("bob", cast.PUBLIC, START + 1)
    assert oracle.good("bob", START + 1) == {False}


def test_a_gate_and_a_flip_change_the_reading_at_once() -> None:
    """Each event is an entry in the history of everyone whom it touches."""
    clock = Clock()
    oracle = Oracle(clock)
    clock.advance(1)
    oracle.gate(cast.GATED_BASE, "bob", "rejected")
    oracle.private(cast.PUBLIC, private=True)
    clock.advance(1)
    assert oracle.refusals("bob", cast.GATED_BASE, clock()) == {"access_denied"}
    assert oracle.refusals("bob", cast.PUBLIC, clock()) == {"model_not_found"}
    assert oracle.allowed("bob", cast.PUBLIC, clock() - 1)


def test_an_outage() -> None:
    """The Hub is away while it is down."""
    clock = Clock()
    oracle = Oracle(clock)
    assert not oracle.unreachable(clock())
    clock.advance(1)
    oracle.outage("429")
    clock.advance(1)
    oracle.outage(None)
    assert oracle.unreachable(clock())
    clock.advance(1)
    assert not oracle.unreachable(clock())
    assert oracle.unreachable(clock() - 2)


def test_an_unknown_token_is_never_good() -> None:
    """A token that was not issued has no history."""
    oracle = Oracle(Clock())
    assert oracle.good("mallory", START) == {False}
    assert oracle.refusals("mallory", cast.PUBLIC, START) == {"invalid_api_key"}
    assert not oracle.allowed("mallory", cast.PUBLIC, START)
