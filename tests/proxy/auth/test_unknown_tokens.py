"""Who makes us ask the Hub about too many bad tokens is not listened to for a while."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubgate.proxy.auth.unknown_tokens import (
    MAX_CLIENTS,
    NEWCOMERS_FACTOR,
    REPEATERS_FACTOR,
    WINDOW,
    Slot,
    UnknownTokenLimiter,
)
from tests.fakes.clock import Clock

LIMIT = 5


async def ask(strangers: UnknownTokenLimiter, client: str, *, refused: bool = True) -> bool:
    """One question from begin to end; whether it was let through."""
    leave = await strangers.begin(client)
    if not isinstance(leave, Slot):
        return False
    strangers.end(leave, refused=refused)
    return True


async def test_refusals_use_up_a_clients_minute() -> None:
    """After so many refused tokens a client waits for the rest of the minute, and is told how long."""
    clock = Clock()
    strangers = UnknownTokenLimiter(LIMIT, clock)
    assert [await ask(strangers, "a") for _ in range(LIMIT + 1)] == [True] * LIMIT + [False]
    clock.advance(WINDOW - 1)
    assert await strangers.begin("a") == 1
    clock.advance(1)
    assert [await ask(strangers, "a") for _ in range(LIMIT + 1)] == [True] * LIMIT + [False]


async def test_good_tokens_cost_nothing() -> None:
    """An office of good callers behind one address is never held up."""
    strangers = UnknownTokenLimiter(LIMIT, Clock())
    assert all([await ask(strangers, "office", refused=False) for _ in range(LIMIT * 20)])


@pytest.mark.parametrize(("refused", "let_through"), [(True, LIMIT), (False, LIMIT * 10)])
async def test_a_burst_waits_for_its_first_answers(refused: bool, let_through: int) -> None:
    """Of a burst of junk only the budget is asked; a burst of good tokens passes, some at a time."""
    strangers = UnknownTokenLimiter(LIMIT, Clock())
    most = open_questions = 0

    async def one() -> bool:
        nonlocal most, open_questions
        leave = await strangers.begin("a")
        if not isinstance(leave, Slot):
            return False
        open_questions += 1
        most = max(most, open_questions)
        await asyncio.sleep(0)
        open_questions -= 1
        strangers.end(leave, refused=refused)
        return True

    assert sum(await asyncio.gather(*(one() for _ in range(LIMIT * 10)))) == let_through
    assert most <= LIMIT


async def test_one_client_does_not_hurt_another() -> None:
    """A client who is out of budget leaves others theirs."""
    strangers = UnknownTokenLimiter(LIMIT, Clock())
    while await ask(strangers, "bad"):
        pass
    assert await ask(strangers, "good")


async def test_a_crowd_does_not_hurt_who_is_new() -> None:
    """When many clients together used up what a crowd may cause, one who was not refused yet is heard."""
    strangers = UnknownTokenLimiter(LIMIT, Clock())
    crowd = [f"10.0.{n // 250}.{n % 250}" for n in range(LIMIT * REPEATERS_FACTOR)]
    asked = sum([await ask(strangers, client) for client in crowd * LIMIT])
    assert asked == len(crowd) + LIMIT * REPEATERS_FACTOR
    assert not await ask(strangers, crowd[0])
    assert await ask(strangers, "192.0.2.1", refused=False)
    assert await ask(strangers, "192.0.2.1", refused=False)


@given(st.lists(st.integers(0, 300), max_size=600))
async def test_all_clients_together_are_bounded(clients: list[int]) -> None:
    """However many addresses the tokens come from, the Hub is asked a bounded number of times."""
    strangers = UnknownTokenLimiter(LIMIT, Clock())
    asked = sum([await ask(strangers, f"10.0.0.{client}") for client in clients])
    assert asked <= LIMIT * (REPEATERS_FACTOR + NEWCOMERS_FACTOR)


async def test_even_a_crowd_of_newcomers_is_bounded() -> None:
    """More addresses than anybody should have end at the budget of newcomers."""
    strangers = UnknownTokenLimiter(LIMIT, Clock())
    asked = sum([await ask(strangers, f"client {n}") for n in range(LIMIT * NEWCOMERS_FACTOR * 2)])
    assert asked == LIMIT * NEWCOMERS_FACTOR


async def test_the_minute_of_all_clients_ends_as_well() -> None:
    """When a crowd of newcomers used up the minute, the next one is told how long, and heard after it."""
    clock = Clock()
    strangers = UnknownTokenLimiter(LIMIT, clock)
    for number in range(LIMIT * NEWCOMERS_FACTOR):
        await ask(strangers, f"client {number}")
    clock.advance(WINDOW - 7)
    assert await strangers.begin("new") == 7
    clock.advance(7)
    assert await ask(strangers, "new")


async def test_memory_is_bounded() -> None:
    """Addresses are forgotten, the longest silent first."""
    strangers = UnknownTokenLimiter(LIMIT, Clock())
    for number in range(MAX_CLIENTS + 10):
        await ask(strangers, str(number), refused=False)
    assert len(strangers._counts) == MAX_CLIENTS


async def test_who_goes_on_trying_is_not_forgotten() -> None:
    """Where memory is short, the client who was silent longest is forgotten, not the one who asks most."""
    strangers = UnknownTokenLimiter(LIMIT, Clock())
    for client in ("silent", "busy"):
        while await ask(strangers, client):
            pass
    for number in range(MAX_CLIENTS - 2):
        await ask(strangers, str(number), refused=False)
    assert not await ask(strangers, "busy")
    for client in ("new", "newer"):
        await ask(strangers, client, refused=False)
    assert not await ask(strangers, "busy")
    assert await ask(strangers, "silent")


async def test_who_is_forgotten_meanwhile_leaves_nothing_behind() -> None:
    """A question of a client that was pushed out of memory ends where it began."""
    strangers = UnknownTokenLimiter(LIMIT, Clock())
    leave = await strangers.begin("a")
    assert isinstance(leave, Slot)
    strangers._counts.clear()
    strangers.end(leave, refused=True)
    assert not strangers._counts
    assert strangers._newcomers.asking == 0


async def test_a_prefix_shares_one_budget() -> None:
    """Rotating through the addresses of a /64 gains nothing."""
    strangers = UnknownTokenLimiter(LIMIT, Clock())
    assert sum([await ask(strangers, f"2001:db8::{n:x}") for n in range(1, 100)]) == LIMIT
    assert await ask(strangers, "2001:db8:0:1::1")
