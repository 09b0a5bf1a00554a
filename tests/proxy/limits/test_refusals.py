"""How many refusals of one client are heard, how many are told one by one, and how the rest is counted."""

import pytest

from hubgate.proxy.limits import refusals as module
from hubgate.proxy.limits.refusals import (
    MAX_CLIENTS,
    MAX_NAMED,
    OTHERS,
    SHARED_FACTOR,
    WINDOW,
    Refusals,
)
from tests.cases import each
from tests.fakes.clock import Clock

LIMIT = 5


def refuse(refusals: Refusals, client: str, times: int = 1) -> int:
    """So many refusals of one client, as the gateway counts them; gives how many had lines."""
    lines = 0
    for _ in range(times):
        refusals.count(client)
        lines += refusals.takes_line(client)
    return lines


def test_a_client_has_so_many_a_minute() -> None:
    """The budget is spent by the last refusal in it, and there again a minute after the first."""
    clock = Clock()
    refusals = Refusals(LIMIT, clock)
    for _ in range(LIMIT):
        assert refusals.wait("a") == 0
        refuse(refusals, "a")
        clock.advance(1)
    assert refusals.wait("a") == WINDOW - LIMIT
    assert refusals.wait("b") == 0
    clock.advance(WINDOW - LIMIT)
    assert refusals.wait("a") == 0
    assert refuse(refusals, "a", LIMIT) == LIMIT
    assert refusals.wait("a") == WINDOW


@each("times", [1, LIMIT, LIMIT + 1, 1000])
def test_lines_and_counts_are_the_refusals(times: int) -> None:
    """Each refusal is a line or in the next report, and never both."""
    refusals = Refusals(LIMIT, Clock())
    lines = refuse(refusals, "a", times) + refuse(refusals, "b", 2)
    assert lines == min(times, LIMIT) + 2
    counted = refusals.report()
    assert counted == ({"a": times - LIMIT} if times > LIMIT else {})
    assert refusals.report() == {}


def test_what_is_no_refusal_takes_lines_all_the_same() -> None:
    """Who leaves before the answer, or comes during an outage, is not to blame, and writes no more lines."""
    refusals = Refusals(LIMIT, Clock())
    assert sum(refusals.takes_line("a") for _ in range(100)) == LIMIT
    assert refusals.wait("a") == 0
    assert refusals.report() == {"a": 100 - LIMIT}


def test_what_has_no_line_anyway_uses_up_the_budget() -> None:
    """After so many wrong paths there is no line for the first wrong token either."""
    refusals = Refusals(LIMIT, Clock())
    for _ in range(LIMIT):
        refusals.count("a")
    assert refusals.wait("a") > 0
    assert refuse(refusals, "a") == 0


def test_all_clients_together_write_a_bounded_number_of_lines() -> None:
    """Whoever has a thousand addresses has not a thousand times the lines; nothing is lost from the sum."""
    clock = Clock()
    refusals = Refusals(LIMIT, clock)
    lines = sum(refuse(refusals, str(client), LIMIT) for client in range(1000))
    assert lines == LIMIT * SHARED_FACTOR
    assert lines + sum(refusals.report().values()) == 1000 * LIMIT
    clock.advance(WINDOW)
    assert refuse(refusals, "one more") == 1


def test_a_report_names_a_bounded_number_of_clients() -> None:
    """The rest of them is one sum."""
    refusals = Refusals(1, Clock())
    for client in range(MAX_NAMED + 50):
        refuse(refusals, str(client), 3)
    counted = refusals.report()
    assert len(counted) == MAX_NAMED + 1
    assert sum(counted.values()) == (MAX_NAMED + 50) * 3 - SHARED_FACTOR
    assert counted[OTHERS] > 0


def test_without_a_name() -> None:
    """What is left out for the disk's sake is one sum of all clients."""
    refusals = Refusals(LIMIT, Clock())
    refusals.leave_out()
    refusals.leave_out()
    assert refusals.report() == {OTHERS: 2}


def test_memory_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more clients than are remembered, who was silent longest goes; no refusal goes from the sum."""
    assert MAX_CLIENTS == 100_000
    monkeypatch.setattr(module, "MAX_CLIENTS", 100)
    refusals = Refusals(LIMIT, Clock())
    refusals._windows.capacity = 100
    refuse(refusals, "silent", LIMIT)
    refuse(refusals, "busy", LIMIT)
    lines = 2 * LIMIT
    for client in range(99):
        lines += refuse(refusals, str(client))
        if client == 50:
            lines += refuse(refusals, "busy")
    assert len(refusals._windows) == 100
    assert refusals.wait("busy") > 0
    assert refusals.wait("silent") == 0
    assert lines + sum(refusals.report().values()) == 2 * LIMIT + 99 + 1


@each(
    ("one", "other", "same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("203.0.113.7", "203.0.113.8", False),
        ("203.0.113.7", "::ffff:203.0.113.7", True),
    ],
)
def test_what_one_client_is(one: str, other: str, *, same: bool) -> None:
    """Rotating through the addresses of a /64 gains nothing."""
    refusals = Refusals(LIMIT, Clock())
    refuse(refusals, one, LIMIT)
    assert (refusals.wait(other) > 0) is same


def test_a_new_number_counts_at_once() -> None:
    """What was counted stays counted."""
    refusals = Refusals(LIMIT, Clock())
    refuse(refusals, "a", LIMIT)
    refusals.replace(LIMIT + 1)
    assert refusals.wait("a") == 0
    refuse(refusals, "a")
    assert refusals.wait("a") > 0
