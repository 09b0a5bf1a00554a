"""The truth: who could read what, at which moment. Pure; it knows neither the proxy nor the demo Hub."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from hubgate.demo.catalog import Token
from tests.isolation.scenario import MODELS, TOKENS, USERS, Model, chain

Value = TypeVar("Value")
Clock = Callable[[], float]


class History(Generic[Value]):
    """What held when. Moments are those of the injected clock, which moves in leaps."""

    def __init__(self, clock: Clock, first: Value) -> None:
        self._clock = clock
        self._since: list[tuple[float, Value]] = [(float("-inf"), first)]

    @property
    def now(self) -> Value:
        return self._since[-1][1]

    def become(self, value: Value) -> None:
        """From now on this holds."""
        if value != self.now:
            self._since.append((self._clock(), value))

    def within(self, since: float) -> set[Value]:
        """Everything that held at some moment from `since` until now."""
        held = set()
        for at, value in reversed(self._since):
            held.add(value)
            if at < since:
                break
        return held

    def told(self, since: float) -> str:
        """The same for people, oldest first."""
        told = []
        for at, value in reversed(self._since):
            told.append(f"{value} from {at:.2f}")
            if at < since:
                break
        return ", then ".join(reversed(told))


class Reading(NamedTuple):
    """One token and one repo at one moment."""

    code: str  # what the Hub says to a good token; "ok" or our code for its refusal
    good: bool  # whether the token was good
    public: bool  # whether the repo needed no token at all

    @property
    def allowed(self) -> bool:
        return self.code == "ok" and (self.good or self.public)


@dataclass(slots=True)
class _Repo:
    private: bool
    gated: bool
    gate: dict[str, str]

    @property
    def public(self) -> bool:
        return not self.private and not self.gated


class AccessModel:
    """Told of every event by whoever makes it happen."""

    def __init__(
        self, clock: Clock, models: Mapping[str, Model] = MODELS, tokens: Mapping[str, Token] = TOKENS
    ) -> None:
        self._clock = clock
        self._issued = tokens
        self._repos = {repo: _Repo(m.private, m.gated, dict(m.gate)) for repo, m in models.items()}
        self.tokens = {name: History(clock, first=True) for name in tokens}
        self.down: History[str | None] = History(clock, None)
        self.commits: dict[str, History[str]] = {}
        self.running = defaultdict[str, History[frozenset[str]]](lambda: History(clock, frozenset()))
        self.evictions = defaultdict[str, int](int)
        self.readings: dict[tuple[str, str], History[Reading]] = {}
        for name in tokens:
            for repo in models:
                self.readings[name, repo] = History(clock, self._reading(name, repo))

    # --- events

    def token(self, name: str, *, good: bool) -> None:
        self.tokens[name].become(good)
        self._changed()

    def private(self, repo: str, *, private: bool) -> None:
        self._repos[repo].private = private
        self._changed()

    def gated(self, repo: str, *, gated: bool) -> None:
        self._repos[repo].gated = gated
        self._changed()

    def gate(self, repo: str, user: str, access: str | None) -> None:
        gate = self._repos[repo].gate
        gate.pop(user, None)
        if access is not None:
            gate[user] = access
        self._changed()

    def outage(self, mode: str | None) -> None:
        self.down.become(mode)

    def commit(self, repo: str, sha: str) -> None:
        if repo not in self.commits:
            self.commits[repo] = History(self._clock, sha)
        self.commits[repo].become(sha)

    def evicted(self, model: str) -> None:
        self.evictions[model] += 1

    # --- questions; `since` is where the window begins

    def good(self, token: str, since: float) -> set[bool]:
        """Whether the token was good, at each moment."""
        return self.tokens[token].within(since) if token in self.tokens else {False}

    def allowed(self, token: str, repo: str, since: float) -> bool:
        """Whether the token could read the repo at some moment."""
        history = self.readings.get((token, repo))
        return history is not None and any(reading.allowed for reading in history.within(since))

    def refusals(self, token: str, repo: str, since: float) -> set[str]:
        """With which codes the Hub refused the token this repo at some moment."""
        if token not in self.tokens:
            return {"invalid_api_key"}
        if repo not in self._repos:
            codes = {"model_not_found"}
        else:
            held = self.readings[token, repo].within(since)
            codes = {reading.code for reading in held if reading.good} - {"ok"}
        return codes | ({"invalid_api_key"} if False in self.good(token, since) else set())

    def unreachable(self, since: float) -> bool:
        """Whether the Hub was away at some moment."""
        return self.down.within(since) != {None}

    def history(self, token: str, repo: str, since: float) -> list[str]:
        """What the model knows, for a report."""
        lines = [f"token {token}: {self.tokens[token].told(since) if token in self.tokens else 'unknown'}"]
        for link in chain(repo):
            history = self.readings.get((token, link))
            lines.append(f"{link}: {history.told(since) if history else 'never was'}")
            if link in self.commits:
                lines.append(f"{link} main: {self.commits[link].told(since)}")
        return [*lines, f"Hub down: {self.down.told(since)}"]

    def _changed(self) -> None:
        for (name, repo), history in self.readings.items():
            history.become(self._reading(name, repo))

    def _reading(self, name: str, repo: str) -> Reading:
        state = self._repos[repo]
        return Reading(_says(self._issued[name], repo, state), self.tokens[name].now, state.public)


def _says(token: Token, repo_id: str, repo: _Repo) -> str:
    """The Hub's rules for a good token (docs/hub.md), in the proxy's words."""
    owner = repo_id.partition("/")[0]
    mine = _member(token.user, owner) and (token.role != "fineGrained" or owner in token.scoped)
    if repo.private and not mine:
        return "model_not_found"
    if owner in token.unapproved_by:
        return "access_denied"
    if not repo.gated or mine:
        return "ok"
    if token.role == "fineGrained" and not token.can_read_gated:
        return "insufficient_scope"
    answers = {"accepted": "ok", "pending": "access_pending", "rejected": "access_denied"}
    return answers.get(repo.gate.get(token.user, ""), "model_gated")


def _member(user: str, owner: str) -> bool:
    return user == owner or owner in USERS[user]
