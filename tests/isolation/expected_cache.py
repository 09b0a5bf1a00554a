"""What the proxy must still know from earlier answers: so much an outage of the Hub must not take away."""

import re
from collections.abc import Callable, Iterable
from typing import Final

from hubgate.demo.log import Entry
from tests.isolation import scenario
from tests.isolation.scenario import Revision

SURE: Final = 0.9  # the proxy's jitter shortens a life by a tenth at most
REMEMBERED: Final = 60.0  # seconds; far longer than a refusal is
_AUTH_CHECK = re.compile(r"/api/models/([^/]+/[^/]+)/auth-check")
_FACT = re.compile(r"/api/models/([^/]+/[^/]+)/revision/main")
_CONFIG = re.compile(r"/([^/]+/[^/]+)/resolve/[0-9a-f]{40}/adapter_config.json")


class ExpectedCache:
    """Reads the Hub's log. It says "known" only where nothing can have made the proxy forget."""

    def __init__(self, clock: Callable[[], float], identity: float, access: float, revision: float) -> None:
        self._clock = clock
        self._lives = {"identity": identity, "access": access, "fact": revision}
        self._told: dict[tuple[str, str], tuple[float, int]] = {}  # question → when, and the status
        self._turned_away: dict[str, float] = {}  # token → its last 401

    def read(self, entries: Iterable[Entry]) -> None:
        """Take in what the Hub was asked since the last time."""
        for entry in entries:
            if entry.token_name is None:
                continue
            if entry.status == 401:
                self._turned_away[entry.token_name] = entry.time
            for question in _questions(entry):
                if entry.status < 429 and entry.bytes:  # an outage leaves what was known before
                    self._told[question] = entry.time, entry.status

    def knows(self, token: str, repo: str, revision: Revision) -> bool:
        """Whether a request for this needs no question to the Hub."""
        introduced, _ = self._told.get((token, "identity"), (0.0, 0))
        if self._turned_away.get(token, 0.0) >= introduced - REMEMBERED:
            return False  # a 401 makes the proxy forget who it is, for as long as it remembers the 401
        if not self._holds(token, "identity", "identity"):
            return False
        if revision or repo == scenario.TEAMS or repo not in scenario.MODELS:
            # Nothing is claimed of those, nor of lists. The team's is asked for with and without `@main`,
            # which the proxy remembers apart and the Hub's log does not tell apart.
            return False
        links = scenario.chain(repo)
        asked = all(self._holds(token, link, "access") for link in links)
        facts = [
            (link, kind) for link in links for kind in ("fact", "config")[: 1 + (link in scenario.ADAPTERS)]
        ]
        return asked and all(self._holds(f"{kind} of", link, "fact") for link, kind in facts)

    def _holds(self, who: str, what: str, life: str) -> bool:
        at, status = self._told.get((who, what), (float("-inf"), 0))
        return status == 200 and self._clock() < at + SURE * self._lives[life]


def _questions(entry: Entry) -> list[tuple[str, str]]:
    if entry.path == "/api/whoami-v2":
        return [(entry.token_name or "", "identity")]
    if match := _AUTH_CHECK.fullmatch(entry.path):
        return [(entry.token_name or "", match[1])]
    if match := _FACT.fullmatch(entry.path):
        return [("fact of", match[1])] if entry.status == 200 else []
    if match := _CONFIG.fullmatch(entry.path):
        return [("config of", match[1])] if entry.status == 200 else []
    return []
