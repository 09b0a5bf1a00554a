"""What an outage leaves behind: when the proxy need not ask the Hub although it is there again."""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from hubgate.demo.log import Entry
from tests.isolation.scenario import Revision

SILENCE: Final = 55.0  # seconds that the demo Hub's 429 asks for
FAILURES: Final = 5  # in a row, after which the proxy may stop asking
FIRST: Final = 1.25  # seconds that it may then not ask for; each further moment with a failure doubles it
LONGEST: Final = 30.0  # seconds, at most
IDLE: Final = 30.0  # seconds after that in which it may still ask one question at a time

_CALLS: Final = {
    "whoami": re.compile(r"/api/whoami-v2"),
    "auth-check": re.compile(r"/api/models/[^/]+/[^/]+/auth-check"),
    "revision": re.compile(r"/api/models/[^/]+/[^/]+/revision/.*"),
    "commits": re.compile(r"/api/models/[^/]+/[^/]+/commits/.*"),
    "config": re.compile(r"/[^/]+/[^/]+/resolve/.*"),
}


class OutageChecker:
    """Reads the Hub's log. That the breaker is closed counts from the next step on.

    An answer stands in the log before the proxy has it; when a step is over, it has them all.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._silent: dict[str | None, float] = {}  # token, None for everybody → until when
        self._failures = Counter[str]()  # in a row, by kind of question
        self._moments: dict[str, set[float]] = {call: set() for call in _CALLS}  # and when they were
        self._open: set[str] = set()

    def read(self, entries: Iterable[Entry]) -> None:
        """Take in what the Hub was asked since the last time."""
        for entry in entries:
            call = next(name for name, path in _CALLS.items() if path.fullmatch(entry.path))
            if entry.status == 429:
                scope = None if call == "whoami" else entry.token_name
                self._silent[scope] = entry.time + SILENCE
            if entry.status < 500 and entry.bytes:
                self._failures[call] = 0
                self._moments[call].clear()
                continue
            self._failures[call] += 1
            self._moments[call].add(entry.time)
            if self._failures[call] >= FAILURES:
                self._open.add(call)

    def settle(self) -> None:
        """Nothing is under way: what was answered since its last failure is asked as ever."""
        self._open = {call for call in self._open if self._failures[call] >= FAILURES}

    def silent(self, token: str) -> bool:
        """Whether a 429 keeps the proxy from asking who this is, or anything for this token."""
        return any(self._clock() < self._silent.get(scope, 0.0) for scope in (None, token))

    def reeling(self, revision: Revision) -> bool:
        """Whether a breaker may keep the proxy from asking what a request for this needs."""
        needed = set(_CALLS) - (set() if revision else {"commits"})
        return any(self._clock() < self._until(call) for call in self._open & needed)

    def _until(self, call: str) -> float:
        moments = self._moments[call]
        if not moments:
            return float("inf")  # answered in this very step
        return max(moments) + min(LONGEST, FIRST * 2.0 ** (len(moments) - 1)) + IDLE
