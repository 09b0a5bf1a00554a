"""Whether a commit lies in the history of a ref: walked page by page, once for all who name its commits.

What a walk finds is a fact of the repo, as `revisions` says of such facts. So the next name costs nothing if
its commit was passed already, and otherwise goes on where the last walk ended. New commits show at the
beginning of a history, which is asked for again; where nothing there is known, it is another history.

A walk costs a question for each page, so that each caller has a budget of them, and each history a bound.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Final

from hubgate.proxy.errors import Denied
from hubgate.proxy.hub.client import HubClient, Page
from hubgate.proxy.hub.schemas import unavailable
from hubgate.wire.bounded_map import BoundedMap
from hubgate.wire.repo import RepoRef
from hubgate.wire.secret import Secret

MAX_PAGES: Final = 50  # of a history; 50 commits a page on the Hub
PAGES_PER_MINUTE: Final = 100  # for one caller: so many at once, and so many more in a minute
MAX_COMMITS: Final = 200_000  # that are remembered of all histories; 20 MB
MAX_HISTORIES: Final = 10_000
MAX_WALKERS: Final = 10_000  # callers whose budget is remembered

_NONE_YET: Final = unavailable()


class _History:
    """What is known of one."""

    def __init__(self, began: float) -> None:
        self.began = began
        self.asked = -math.inf  # when its first page was, for the last time
        self.commits: set[bytes] = set()
        self.pages = 0
        self.following: str | None = None  # the path of the page that comes next
        self.turn = asyncio.Lock()  # of who asks for a page
        self.outage = _NONE_YET  # the last one

    @property
    def is_walked(self) -> bool:
        """Whether no page is left to ask for but the first one, anew."""
        return self.following is None or self.pages >= MAX_PAGES

    def begin(self, page: Page, now: float) -> None:
        """Take its first page."""
        commits = _ids(page.commits)
        if self.commits.isdisjoint(commits):
            self.began = now
            self.commits.clear()
            self.pages, self.following = 1, page.following
        self.asked = now
        self.commits |= commits

    def go_on(self, page: Page) -> None:
        self.commits |= _ids(page.commits)
        self.pages += 1
        self.following = page.following


class Histories:
    """Walks histories. What was found is good for `life` seconds, and that a commit was not for `fresh`."""

    def __init__(self, hub: HubClient, clock: Callable[[], float], *, life: float, fresh: float) -> None:
        self._hub = hub
        self._clock = clock
        self._life = life
        self._fresh = fresh
        self._histories: BoundedMap[str, _History] = BoundedMap(MAX_HISTORIES)
        self._commits = 0  # of all of them
        self._spent: BoundedMap[str, float] = BoundedMap(MAX_WALKERS)  # until when each walker's pages count

    def forget_all(self) -> None:
        """Drop every fact; budgets go on."""
        self._histories.clear()
        self._commits = 0

    async def holds(self, token: Secret, repo: RepoRef, sha: str, who: str) -> bool | Denied:
        """Whether a commit is the repo's revision or one of its ancestors.

        `who` asks: of what they may ask in a minute each page is one, and beyond that it is 429.
        """
        commit, began = bytes.fromhex(sha), self._clock()
        history = self._history(str(repo))
        while True:
            told = self._verdict(history, commit, began)
            if told is not None:
                return told
            outage = history.outage
            async with history.turn:
                told = self._verdict(history, commit, began)
                if told is not None:
                    return told
                if history.outage is not outage:
                    return history.outage  # who waited for it need not find out again
                refused = await self._next_page(history, token, repo, who, began)
                if refused is not None:
                    return refused

    def _verdict(self, history: _History, commit: bytes, began: float) -> bool | None:
        if commit in history.commits:
            return True
        return False if history.is_walked and not self._is_stale(history, began) else None

    def _is_stale(self, history: _History, began: float) -> bool:
        return history.asked + self._fresh < began

    async def _next_page(
        self, history: _History, token: Secret, repo: RepoRef, who: str, began: float
    ) -> Denied | None:
        first = self._is_stale(history, began)
        now = self._clock()
        if wait := self._spend(who, now):
            message = "You named commits that too many questions to the Hub are needed for."
            return Denied("rate_limit_exceeded", message, retry_after=wait)
        page = await self._hub.commits(token, repo, None if first else history.following, who)
        if isinstance(page, Denied):
            if page.code == "hub_unavailable" and not page.own:
                history.outage = page
            return page
        before = len(history.commits)
        if first:
            history.begin(page, now)
        else:
            history.go_on(page)
        if self._histories.get(str(repo)) is history:
            self._commits += len(history.commits) - before
            self._bound(history)
        return None

    def _spend(self, who: str, now: float) -> float:
        """Take one page of a walker's budget, or give the seconds until there is one."""
        until = max(self._spent.get(who, now), now) + 60 / PAGES_PER_MINUTE
        if until > now + 60:
            return until - now - 60
        self._spent.put(who, until)
        return 0.0

    def _history(self, key: str) -> _History:
        history, now = self._histories.get(key), self._clock()
        if history is not None and now < history.began + self._life:
            self._histories.move_to_end(key)
            return history
        if history is not None:
            self._commits -= len(history.commits)
        elif len(self._histories) >= MAX_HISTORIES:
            self._drop_oldest()
        history = _History(now)
        self._histories.put(key, history)
        return history

    def _bound(self, newest: _History) -> None:
        """Forget what was used longest ago, where there is too much."""
        while self._commits > MAX_COMMITS and next(iter(self._histories.values())) is not newest:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, history = self._histories.popitem(last=False)
        self._commits -= len(history.commits)


def _ids(commits: Sequence[str]) -> set[bytes]:
    return {bytes.fromhex(commit) for commit in commits}
