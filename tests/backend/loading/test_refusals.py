"""A refusal for want of room is remembered for a while."""

from hubgate.backend.fairness.line import OPERATOR
from hubgate.backend.loading.refusals import LONGEST, Refusals
from hubgate.wire.control_api import Evicted, LoadFailed
from tests.fakes.clock import Clock

GONE = Evicted(repo="a/b", kind="adapter")
FULL = LoadFailed(code="no_capacity", message="full", retry_after=30, evicted=(GONE,), stage="loading")


def test_who_asks_too_soon_hears_the_same_again() -> None:
    """Nothing was evicted by it a second time; others, and other models, are not meant."""
    clock = Clock()
    refusals = Refusals(clock)
    refusals.add("a", "org/x@1", FULL)
    again = refusals.find("a", "org/x@1")
    assert again is not None
    assert (again.code, again.message, again.retry_after, again.evicted) == ("no_capacity", "full", 30, ())
    assert refusals.find("b", "org/x@1") is None
    assert refusals.find("a", "org/y@1") is None
    clock.advance(LONGEST)
    assert refusals.find("a", "org/x@1") is None


def test_only_want_of_places_is_remembered() -> None:
    """What else is wrong may be mended at once; and the operator is never held back."""
    refusals = Refusals(Clock())
    refusals.add("a", "x", LoadFailed(code="hub_unavailable", message="down", retry_after=5))
    refusals.add("a", "x", LoadFailed(code="store_full", message="the disk is full", retry_after=60))
    refusals.add("a", "x", LoadFailed(code="no_capacity", message="no engine", retry_after=30))
    again = LoadFailed(code="no_capacity", message="it made room", retry_after=5, stage="loading")
    refusals.add("a", "x", again)
    refusals.add(OPERATOR, "x", FULL)
    assert refusals.find("a", "x") is None
    assert refusals.find(OPERATOR, "x") is None
