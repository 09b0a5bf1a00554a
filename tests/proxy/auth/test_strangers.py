"""Who makes us ask the Hub about too many bad tokens is not listened to for a while."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.auth.strangers import CLIENTS, CROWD, WINDOW, Strangers
from tests.fakes.clock import Clock

LIMIT = 5


async def ask(strangers: Strangers, client: str, *, refused: bool = True) -> bool:
    """One question from begin to end; whether it was let through."""
    if await strangers.begin(client) is not None:
        return False
    await strangers.end(client, refused=refused)
    return True


async def test_refusals_use_up_a_clients_minute() -> None:
    """After so many refused tokens a client waits for the rest of the minute, and is told how long."""
    clock = Clock()
    strangers = Strangers(LIMIT, clock)
    assert [await ask(strangers, "a") for _ in range(LIMIT + 1)] == [True] * LIMIT + [False]
    clock.advance(WINDOW - 1)
    assert await strangers.begin("a") == 1
    clock.advance(1)
    assert await ask(strangers, "a")


async def test_good_tokens_cost_nothing() -> None:
    """An office of good callers behind one address is never held up."""
    strangers = Strangers(LIMIT, Clock())
    assert all([await ask(strangers, "office", refused=False) for _ in range(LIMIT * 20)])


@pytest.mark.parametrize(("refused", "let_through"), [(True, LIMIT), (False, LIMIT * 10)])
async def test_a_burst_waits_for_its_first_answers(refused: bool, let_through: int) -> None:
    """Of a burst of junk only the budget is asked; a burst of good tokens passes, some at a time."""
    strangers = Strangers(LIMIT, Clock())
    most = open_questions = 0

    async def one() -> bool:
        nonlocal most, open_questions
        if await strangers.begin("a") is not None:
            return False
        open_questions += 1
        most = max(most, open_questions)
        await asyncio.sleep(0)
        open_questions -= 1
        await strangers.end("a", refused=refused)
        return True

    assert sum(await asyncio.gather(*(one() for _ in range(LIMIT * 10)))) == let_through
    assert most <= LIMIT


async def test_one_client_does_not_hurt_another() -> None:
    """A client who is out of budget leaves others theirs."""
    strangers = Strangers(LIMIT, Clock())
    while await ask(strangers, "bad"):
        pass
    assert await ask(strangers, "good")


@given(st.lists(st.integers(0, 50), max_size=400))
async def test_all_clients_together_are_bounded(clients: list[int]) -> None:
    """However many addresses the tokens come from, the Hub is asked a bounded number of times."""
    strangers = Strangers(LIMIT, Clock())
    asked = sum([await ask(strangers, f"10.0.0.{client}") for client in clients])
    assert asked <= LIMIT * CROWD


async def test_memory_is_bounded() -> None:
    """Addresses are forgotten, the longest silent first."""
    strangers = Strangers(LIMIT, Clock())
    for number in range(CLIENTS + 10):
        await ask(strangers, str(number), refused=False)
    assert len(strangers._counts) == CLIENTS
