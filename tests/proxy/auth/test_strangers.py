"""Who makes us ask the Hub about too many bad tokens is not listened to for a while."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.auth.strangers import CLIENTS, CROWD, WINDOW, Strangers
from tests.fakes.clock import Clock

LIMIT = 5


def ask(strangers: Strangers, client: str, *, refused: bool = True) -> bool:
    """One question from begin to end; whether it was let through."""
    if strangers.begin(client) is not None:
        return False
    strangers.end(client, refused=refused)
    return True


def test_refusals_use_up_a_clients_minute() -> None:
    """After so many refused tokens a client waits for the rest of the minute, and is told how long."""
    clock = Clock()
    strangers = Strangers(LIMIT, clock)
    assert [ask(strangers, "a") for _ in range(LIMIT + 1)] == [True] * LIMIT + [False]
    clock.advance(WINDOW - 1)
    assert strangers.begin("a") == 1
    clock.advance(1)
    assert ask(strangers, "a")


def test_good_tokens_cost_nothing() -> None:
    """An office of good callers behind one address is never held up."""
    strangers = Strangers(LIMIT, Clock())
    assert all(ask(strangers, "office", refused=False) for _ in range(LIMIT * 20))


def test_questions_under_way_count() -> None:
    """A burst of unknown tokens is bounded before the first answer is there."""
    strangers = Strangers(LIMIT, Clock())
    waits = [strangers.begin("a") for _ in range(LIMIT * 3)]
    assert waits.count(None) == LIMIT
    strangers.end("a", refused=False)
    assert strangers.begin("a") is None


def test_one_client_does_not_hurt_another() -> None:
    """A client who is out of budget leaves others theirs."""
    strangers = Strangers(LIMIT, Clock())
    while ask(strangers, "bad"):
        pass
    assert ask(strangers, "good")


@given(st.lists(st.integers(0, 50), max_size=400))
def test_all_clients_together_are_bounded(clients: list[int]) -> None:
    """However many addresses the tokens come from, the Hub is asked a bounded number of times."""
    strangers = Strangers(LIMIT, Clock())
    asked = sum(ask(strangers, f"10.0.0.{client}") for client in clients)
    assert asked <= LIMIT * CROWD


def test_memory_is_bounded() -> None:
    """Addresses are forgotten, the longest silent first."""
    strangers = Strangers(LIMIT, Clock())
    for number in range(CLIENTS + 10):
        ask(strangers, str(number), refused=False)
    assert len(strangers._counts) == CLIENTS
