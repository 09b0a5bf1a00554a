"""How many loads one caller may have under way, with and without somebody who waits."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from hubgate.backend.downloads.single_flight import Interest
from hubgate.backend.fairness.line import OPERATOR
from hubgate.backend.loading.under_way import AGAIN, UnderWay


class Crowd:
    """Callers whose loads never end by themselves."""

    def __init__(self, most: int, most_of_one: int) -> None:
        self.under_way = UnderWay(most, most_of_one)

    def begin(self, caller: str, *, left: bool = False) -> asyncio.Task[object] | None:
        """A load that goes on, or `None` if it was refused."""
        if self.under_way.refusal(caller) is not None:
            return None
        task = asyncio.create_task(asyncio.Event().wait())
        self.under_way.add(Interest(caller, present=not left), task)
        return task

    def many(self, caller: str, count: int, *, left: bool = False) -> list[asyncio.Task[object] | None]:
        return [self.begin(caller, left=left) for _ in range(count)]


@pytest.fixture
async def crowds() -> AsyncIterator[list[Crowd]]:
    made: list[Crowd] = []
    yield made
    for crowd in made:
        for task in crowd.under_way.tasks():
            task.cancel()


async def test_one_caller_has_a_bound(crowds: list[Crowd]) -> None:
    """And is told why, and when to come again; everybody else is let in."""
    crowds.append(crowd := Crowd(100, 3))
    assert [bool(task) for task in crowd.many("a", 4)] == [True] * 3 + [False]
    refusal = crowd.under_way.refusal("a")
    assert refusal is not None
    assert (refusal.code, refusal.retry_after) == ("no_capacity", AGAIN)
    assert "3 of your loads" in refusal.message
    assert crowd.begin("b")


async def test_a_caller_may_have_as_many_as_are_left_free(crowds: list[Crowd]) -> None:
    """So there is room for somebody new, whoever takes all they can; and the operator is always let in."""
    crowds.append(crowd := Crowd(8, 100))
    counts = [sum(task is not None for task in crowd.many(caller, 8)) for caller in "abc"]
    assert counts == [4, 2, 1]
    assert crowd.begin("d")
    assert not crowd.begin("e")
    assert crowd.begin(OPERATOR)


async def test_loads_that_were_left_count_and_give_way(crowds: list[Crowd]) -> None:
    """For their caller first, the oldest of them; else for whoever has less than the one who left most."""
    crowds.append(crowd := Crowd(8, 4))
    mine = crowd.many("a", 4, left=True)
    assert crowd.begin("a")
    await asyncio.sleep(0)
    assert [task is not None and task.cancelled() for task in mine] == [True, False, False, False]
    others = crowd.many("b", 2)
    assert all(others)
    for caller in "cde":
        assert crowd.begin(caller), caller
    await asyncio.sleep(0)
    assert [task is not None and task.cancelled() for task in mine] == [True, True, False, False]
    assert not any(task is None or task.cancelled() for task in others)


async def test_a_load_that_is_over_counts_no_longer(crowds: list[Crowd]) -> None:
    """However it ended."""
    crowds.append(crowd := Crowd(8, 1))
    task = crowd.begin("a")
    assert task
    assert not crowd.begin("a")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await asyncio.sleep(0)
    assert crowd.begin("a")
