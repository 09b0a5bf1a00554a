"""Walks over commits: each page is asked for once, by callers who have a budget."""

import asyncio
import random
from typing import cast
from unittest.mock import patch

import pytest

from hubgate.proxy.errors import Denied
from hubgate.proxy.hub import histories
from hubgate.proxy.hub.client import HubClient, Page
from hubgate.proxy.hub.histories import MAX_PAGES, PAGES_PER_MINUTE, Histories
from hubgate.proxy.hub.schemas import unavailable
from hubgate.wire.repo import RepoRef
from hubgate.wire.secret import Secret
from tests.fakes.clock import Clock

REPO, OTHER = RepoRef.parse("acme/lora@main"), RepoRef.parse("acme/other@main")
LIFE, FRESH = 900.0, 2.5
TOKEN = Secret("hf_alice")


def commit(number: int) -> str:
    return f"{number:040x}"


class Hub:
    """Histories of commits, the newest first, in pages as the Hub's: by their number."""

    def __init__(self, size: int = 50) -> None:
        self.size = size
        self.commits: dict[str, list[str]] = {str(REPO): [], str(OTHER): []}
        self.asked: list[str] = []  # by whom
        self.fails: Denied | None = None  # once
        self.gate: asyncio.Event | None = None  # what each page waits for

    def page_of(self, repo: RepoRef, path: str | None) -> Page:
        number, all_of_it = int(path or 0), self.commits[str(repo)]
        following = str(number + 1) if (number + 1) * self.size < len(all_of_it) else None
        return Page(all_of_it[number * self.size : (number + 1) * self.size], following)

    async def commits_of(self, _token: Secret, repo: RepoRef, path: str | None, who: str) -> Page | Denied:
        self.asked.append(who)
        if self.gate is not None:
            await self.gate.wait()
        fails, self.fails = self.fails, None
        return fails or self.page_of(repo, path)


class World:
    """A Hub and histories over it, on a clock."""

    def __init__(self, depth: int = 0, size: int = 50) -> None:
        self.clock = Clock()
        self.hub = Hub(size)
        self.hub.commits[str(REPO)] = [commit(number) for number in range(depth, 0, -1)]
        client = cast("HubClient", type("Client", (), {"commits": staticmethod(self.hub.commits_of)})())
        self.histories = Histories(client, self.clock, life=LIFE, fresh=FRESH)

    async def holds(self, number: int, who: str = "alice", repo: RepoRef = REPO) -> bool | str:
        """The verdict, or the code of a refusal."""
        held = await self.histories.holds(TOKEN, repo, commit(number), who)
        return held.code if isinstance(held, Denied) else held

    def push(self, *numbers: int) -> None:
        self.hub.commits[str(REPO)][:0] = [commit(number) for number in numbers]

    @property
    def pages(self) -> int:
        return len(self.hub.asked)


async def test_a_hundred_old_commits_cost_one_walk() -> None:
    """However deep they lie, whoever names them, in whatever order, and at once."""
    world = World(2_400)
    names = [*range(1, 2_400, 24)]
    random.Random(7).shuffle(names)  # noqa: S311 - always the same
    verdicts = await asyncio.gather(*[world.holds(n, f"caller-{n % 3}") for n in names])
    assert verdicts == [True] * 100
    assert world.pages == 48


async def test_a_walk_goes_no_further_than_it_has_to() -> None:
    """The next one begins where it ended."""
    world = World(500)
    for number, pages in ((490, 1), (480, 1), (390, 3), (499, 3), (380, 3), (349, 4), (1, 10), (250, 10)):
        assert await world.holds(number) is True
        assert world.pages == pages


async def test_what_is_not_there_costs_one_page_for_a_while() -> None:
    """Once a history is walked, its first page tells what is new; and that for a moment, whoever asks."""
    world = World(120)
    assert await world.holds(999) is False
    assert world.pages == 3
    assert [await world.holds(number) for number in range(1000, 1100)] == [False] * 100
    assert world.pages == 3
    world.push(1000)
    world.clock.advance(FRESH)
    assert await world.holds(1000) is False
    assert world.pages == 3
    world.clock.advance(0.1)
    assert [await world.holds(number) for number in (1000, 1001, 5)] == [True, False, True]
    assert world.pages == 4


async def test_many_new_commits_are_another_history() -> None:
    """Where nothing on the first page is known, there may be a gap, or another history: it is walked anew."""
    world = World(120)
    assert await world.holds(999) is False
    world.push(*range(2_100, 2_000, -1))
    world.clock.advance(FRESH + 0.1)
    assert await world.holds(2_001) is True
    assert world.pages == 3 + 2
    assert await world.holds(5) is True
    assert world.pages == 3 + 5


async def test_what_was_found_has_a_life() -> None:
    """A commit that was pushed away is served no longer than that, and others are looked for anew."""
    world = World(60)
    assert await world.holds(60) is True
    world.hub.commits[str(REPO)] = [commit(number) for number in range(50, 0, -1)]
    world.clock.advance(LIFE - 1)
    assert await world.holds(60) is True
    world.clock.advance(1)
    assert await world.holds(60) is False


async def test_another_history_has_a_life_of_its_own() -> None:
    """It counts from when it was seen first, however old the one before it was."""
    world = World(50)
    assert await world.holds(1) is True
    world.push(*range(2_100, 2_000, -1))
    for seconds, pages in ((LIFE - 1, 2), (LIFE - 1, 2), (1, 3)):
        world.clock.advance(seconds)
        assert await world.holds(2_100) is True
        assert world.pages == pages


async def test_a_history_has_a_bound() -> None:
    """What lies behind fifty pages is not served, and costs nothing more."""
    world = World(50 * 60)
    assert await world.holds(50 * 10 + 1) is True  # the last one of the fiftieth page
    for _ in range(5):
        assert await world.holds(50 * 10) is False
    assert world.pages == MAX_PAGES


async def test_a_caller_has_a_budget_of_pages() -> None:
    """Beyond it they are told when there is a page for them, and go on where they ended; others go on too."""
    world = World(2_400)
    for _ in range(2):
        assert await world.holds(1) is True
        world.clock.advance(LIFE)  # the history is walked anew, and the budget is whole again
    for _ in range(2):
        assert await world.holds(1) is True
        world.histories.forget_all()
    assert world.pages == 4 * 48
    for _ in range(3):
        asked = world.pages
        denied = await world.histories.holds(TOKEN, REPO, commit(1), "alice")
        assert isinstance(denied, Denied)
        assert denied.code == "rate_limit_exceeded"
        assert denied.retry_after is not None
        assert world.pages - asked in (PAGES_PER_MINUTE - 2 * 48, 1)
        world.clock.advance(denied.retry_after + 1e-6)
    assert await world.holds(1, "bob") is True
    assert world.hub.asked.count("alice") + world.hub.asked.count("bob") == 5 * 48
    assert await world.holds(2) is True  # what is known costs her nothing


async def test_an_outage_is_told_to_all_who_wait_for_it() -> None:
    """Not found out by one after the other; it is nobody's verdict, and the next one asks again."""
    world = World(500)
    world.hub.fails, world.hub.gate = unavailable(), asyncio.Event()
    waiting = [asyncio.create_task(world.holds(number, f"caller-{number}")) for number in range(30)]
    for _ in range(3):
        await asyncio.sleep(0)
    world.hub.gate.set()
    assert set(await asyncio.gather(*waiting)) == {"hub_unavailable"}
    assert world.pages == 1
    assert await world.holds(499) is True


@pytest.mark.parametrize(
    "denied", [unavailable(own=True), Denied("model_not_found", ""), Denied("invalid_api_key", "")]
)
async def test_what_one_is_refused_is_not_the_others(denied: Denied) -> None:
    """A refusal of one token says nothing to who waits: they ask with theirs."""
    world = World(500)
    world.hub.fails, world.hub.gate = denied, asyncio.Event()
    first = asyncio.create_task(world.holds(499))
    await asyncio.sleep(0)
    second = asyncio.create_task(world.holds(499, "bob"))
    await asyncio.sleep(0)
    world.hub.gate.set()
    assert await first == denied.code
    assert await second is True
    assert world.hub.asked == ["alice", "bob"]


async def test_a_walk_goes_on_when_its_walker_leaves() -> None:
    """The next one asks for the page that did not come."""
    world = World(500)
    world.hub.gate = asyncio.Event()
    first = asyncio.create_task(world.holds(1))
    second = asyncio.create_task(world.holds(1, "bob"))
    await asyncio.sleep(0)
    first.cancel()
    world.hub.gate.set()
    assert await second is True
    assert world.hub.asked == ["alice", *["bob"] * 10]


async def test_what_is_remembered_has_a_bound() -> None:
    """The histories that were used longest ago go, and are walked anew."""
    world = World(100)
    with patch.object(histories, "MAX_COMMITS", 1_000):
        for number in range(30):
            repo = RepoRef.parse(f"acme/lora-{number}@main")
            world.hub.commits[str(repo)] = [commit(number) for number in range(100)]
            assert await world.holds(99, f"caller-{number}", repo) is True
            assert await world.holds(1) is True  # in use all the time
            assert world.histories._commits <= 1_000
            kept = world.histories._histories.values()
            assert world.histories._commits == sum(len(history.commits) for history in kept)
    assert world.pages == 31 * 2
    world.histories.forget_all()
    for _ in range(2):
        assert await world.holds(1) is True
        assert world.histories._commits == 100
        world.clock.advance(LIFE)


async def test_how_many_histories_are_remembered_has_a_bound() -> None:
    """With one more, the one that was used longest ago goes, and its commits count no more."""
    repos = [RepoRef.parse(f"acme/lora-{number}@main") for number in range(5)]
    with patch.object(histories, "MAX_HISTORIES", 3):
        world = World()
        for number, repo in enumerate(repos):
            world.hub.commits[str(repo)] = [commit(number) for number in range(10)]
            assert await world.holds(9, repo=repo) is True
            assert world.histories._commits == 10 * min(number + 1, 3)
        for repo, pages in ((repos[4], 5), (repos[3], 5), (repos[2], 5), (repos[1], 6)):
            assert await world.holds(9, repo=repo) is True
            assert world.pages == pages


@pytest.mark.parametrize(("most", "pages"), [(60, 4), (149, 4), (150, 3)])
async def test_what_is_in_use_is_kept_whatever_the_bound(most: int, pages: int) -> None:
    """As many commits as the bound says are kept, and the history that is walked now in any case."""
    world = World(100)
    world.hub.commits[str(OTHER)] = [commit(number) for number in range(50)]
    with patch.object(histories, "MAX_COMMITS", most):
        for _ in range(2):
            assert await world.holds(1) is True
            assert world.pages == 2
        assert await world.holds(1, repo=OTHER) is True
        assert await world.holds(100) is True
        assert world.pages == pages


class Play:
    """Pushes, forced ones too, and names, beside what the history was at each moment."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)  # noqa: S311 - a play, to be played again
        self.world = World(self._chance.randint(0, 40), size=self._chance.randint(4, 10))
        self._next = 1_000
        # When it was what: all of it, and as much as is looked at.
        self._was: list[tuple[float, frozenset[str], frozenset[str]]] = []
        self._forced = -LIFE
        self.verdicts: list[bool | str] = []
        self._record()

    async def step(self) -> None:
        what = self._chance.random()
        commits = self.world.hub.commits[str(REPO)]
        if what < 0.2:
            self.world.clock.advance(self._chance.choice((0.5, 3, 60, 700)))
        elif what < 0.35:
            many = self._chance.randint(1, 12)
            self.world.push(*range(self._next + many - 1, self._next - 1, -1))
            self._next += many
        elif what < 0.38 and commits:
            del commits[: self._chance.randint(1, len(commits))]
            self._forced = self.world.clock()
        else:
            await self._ask(self._chance.choice((*commits[:3], *commits[-3:], commit(self._next + 5))))
        self._record()

    async def _ask(self, sha: str) -> None:
        held = await self.world.holds(int(sha, 16))
        self.verdicts.append(held)
        if held is True:
            assert any(sha in was for was, _ in self._within(LIFE))
        # A forced push in the middle of a walk may leave a gap, for the life of what was found.
        if held is False and self.world.clock() - self._forced > LIFE:
            assert not all(sha in seen for _, seen in self._within(FRESH))

    def _record(self) -> None:
        commits = self.world.hub.commits[str(REPO)]
        seen = frozenset(commits[: self.world.hub.size * MAX_PAGES])
        self._was.append((self.world.clock(), frozenset(commits), seen))

    def _within(self, seconds: float) -> list[tuple[frozenset[str], frozenset[str]]]:
        """What it was at any moment of so many seconds until now."""
        since = self.world.clock() - seconds
        before = sum(time < since for time, _, _ in self._was)
        return [(was, seen) for _, was, seen in self._was[max(0, before - 1) :]]


async def test_verdicts_are_what_the_history_says() -> None:
    """A commit that is there is found, one that was not there lately is not, within the pages of a caller."""
    for seed in range(1_000):
        play = Play(seed)
        began = play.world.clock()
        for _ in range(40):
            await play.step()
        passed = play.world.clock() - began
        assert play.world.pages <= PAGES_PER_MINUTE * (1 + passed / 60)
        assert {True, False} >= set(play.verdicts) - {"rate_limit_exceeded"}
