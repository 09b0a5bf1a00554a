"""The outage checker itself: what it makes of a log that a person can check."""

from hubgate.demo.log import Entry
from tests.fakes.clock import Clock
from tests.isolation.outage_checker import FAILURES, FIRST, IDLE, LONGEST, SILENCE, OutageChecker

WHOAMI = "/api/whoami-v2"
CHECK = "/api/models/acme/base/auth-check"
COMMITS = "/api/models/acme/base/commits/main"


class World:
    """An outage checker and a log of the test's own."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.outage_checker = OutageChecker(self.clock)

    def log(self, path: str, *statuses: int, token: str = "bob", size: int = 2) -> None:
        common = {"origin": "hub", "method": "GET", "query": "", "user": token, "token_name": token}
        rest = {"user_agent": "", "has_authorization": True, "bytes": size}
        entries = [
            Entry(time=self.clock(), path=path, status=status, **common, **rest)  # type: ignore[arg-type]
            for status in statuses
        ]
        self.outage_checker.read(entries)


def test_failures_in_a_row_leave_the_breaker_open() -> None:
    """Five of one kind do, in a row; refusals in between show that the Hub is there."""
    world = World()
    world.log(CHECK, *[503] * (FAILURES - 1), 404, *[503] * (FAILURES - 1))
    world.log(WHOAMI, 503)
    assert not world.outage_checker.reeling("")
    world.log(CHECK, 500)
    assert world.outage_checker.reeling("")


def test_a_cut_connection_is_a_failure() -> None:
    """The log knows it by its empty body."""
    world = World()
    world.log(WHOAMI, *[200] * FAILURES, size=0)
    assert world.outage_checker.reeling("")


def test_it_is_over_with_the_step_in_which_an_answer_came() -> None:
    """Those who ask at the same time as the probe may still be refused."""
    world = World()
    world.log(CHECK, *[503] * FAILURES)
    world.outage_checker.settle()
    world.log(CHECK, 200)
    assert world.outage_checker.reeling("")
    world.outage_checker.settle()
    assert not world.outage_checker.reeling("")


def test_it_is_over_in_any_case_after_a_while() -> None:
    """Nobody may be refused for a failure of long ago."""
    world = World()
    world.log(CHECK, *[503] * FAILURES)
    world.clock.advance(FIRST + IDLE - 1)
    assert world.outage_checker.reeling("")
    world.clock.advance(1)
    assert not world.outage_checker.reeling("")
    for _ in range(10):
        world.log(CHECK, 503)
        world.clock.advance(1)
    world.clock.advance(LONGEST + IDLE - 2)
    assert world.outage_checker.reeling("")
    world.clock.advance(1)
    assert not world.outage_checker.reeling("")


def test_what_a_request_does_not_need_is_no_excuse() -> None:
    """Histories are asked for only where a revision is named."""
    world = World()
    world.log(COMMITS, *[503] * FAILURES)
    assert not world.outage_checker.reeling("")
    assert world.outage_checker.reeling("first")


def test_a_429_silences_its_scope() -> None:
    """Whoami's everybody, any other's one token, and both for as long as it says."""
    world = World()
    world.log(CHECK, 429, token="bob")
    assert world.outage_checker.silent("bob")
    assert not world.outage_checker.silent("alice")
    world.clock.advance(SILENCE)
    assert not world.outage_checker.silent("bob")
    world.log(WHOAMI, 429, token="bob")
    assert world.outage_checker.silent("alice")
