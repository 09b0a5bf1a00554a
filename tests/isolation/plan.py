"""One step of a campaign, decided by its seed alone: who asks what, what happens meanwhile, and when."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Final, Literal, TypeVar

from tests.isolation import scenario
from tests.isolation.scenario import Gate, Revision

Choice = TypeVar("Choice")
Endpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/models"]

_TOKENS: Final = {
    "alice": 10,
    "alice-narrow": 2,
    "bob": 8,
    "bob-unapproved": 2,
    "carol-0": 3,
    "carol-1": 3,
    "eve": 7,
    "wanda": 1,
    "olga": 1,
    "alicf": 1,
    "mallory": 1,
}
_REPOS: Final = {
    scenario.OPEN_BASE: 7,
    scenario.GATED_BASE: 4,
    "house": 1,
    scenario.PRIVATE: 6,
    scenario.BOBS: 4,
    scenario.TEAMS: 4,
    scenario.PUBLIC: 8,
    scenario.GATED_LORA: 4,
    scenario.OLD_NAME: 2,
    scenario.MISSING: 2,
    scenario.FORBIDDEN: 1,
    "": 2,  # the list of models
}
_REVISIONS: Final[dict[Revision, int]] = {"": 16, "first": 1, "current": 1, "pr-ref": 1, "pr-sha": 1}
_EVENTS: Final = {
    "revoke": 2,
    "unrevoke": 12,
    "reissue": 1,
    "gate": 6,
    "private": 1,
    "public": 2,
    "commit": 2,
    "evict": 8,
    "stop": 2,
    "outage": 1,
}
_OUTAGES: Final = ("503", "503", "500", "502", "504", "disconnect", "429")
_GATES: Final[tuple[Gate | None, ...]] = ("accepted", "accepted", "accepted", "pending", "rejected", None)


@dataclass(frozen=True, slots=True)
class Ask:
    """One request; `after` turns of the event loop."""

    after: int
    token: str
    repo: str
    revision: Revision
    endpoint: Endpoint
    stream: bool


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happens; what `subject`, `user` and `value` mean is the kind's own (`world`)."""

    after: int
    kind: str
    subject: str = ""
    user: str = ""
    value: str | None = None  # of `gate` and `outage`


@dataclass(frozen=True, slots=True)
class Step:
    """What runs at once. Time passes within (`leap`) and, when all has ended, after it (`rest`)."""

    asks: tuple[Ask, ...]
    events: tuple[Event, ...]
    slow_loads: bool  # loads wait until every event has happened
    leap: tuple[int, float]  # after so many turns, so many seconds
    amends: tuple[Event, ...]  # what happens when all has ended
    rest: float


def step(seed: int, number: int) -> Step:
    """The step of this number."""
    rng = Random(f"{seed}:{number}")  # noqa: S311 - a plan must be repeatable
    asks = tuple(_ask(rng) for _ in range(rng.randint(4, 14)))
    slow = rng.random() < 0.2
    events = tuple(_event(rng) for _ in range(rng.choice((0, 0, 0, 0, 1, 2))))
    amends: tuple[Event, ...] = ()
    if slow:
        ambush = _ambush(rng, rng.choice(asks))
        events += ambush
        amends = tuple(_undone(event) for event in ambush[1:] if rng.random() < 0.9)
    leaps = (0.5, 5.0, rng.uniform(8, 30)) if slow else (0.0, 0.0, 0.5, 2.0, rng.uniform(8, 30))
    leap = rng.randint(60, 120), rng.choice(leaps)
    rest = rng.uniform(30, 200) if rng.random() < 0.06 else rng.choice((0.0, 0.5, 2.0))
    return Step(asks, events, slow, leap, amends, rest)


def _ask(rng: Random) -> Ask:
    repo = _choose(rng, _REPOS)
    revision: Revision = _choose(rng, _REVISIONS) if repo in scenario.MODELS else ""
    endpoint: Endpoint = "/v1/models"
    if repo:
        endpoint = rng.choice(("/v1/chat/completions", "/v1/completions"))
    if repo == scenario.TEAMS and not revision:
        revision = rng.choice(("", "main"))
    return Ask(rng.randint(0, 40), _choose(rng, _TOKENS), repo, revision, endpoint, rng.random() < 0.4)


def _ambush(rng: Random, ask: Ask) -> tuple[Event, ...]:
    """Make what somebody asks for cold, and take their access away while it is loaded."""
    repo = scenario.chain(ask.repo)[0]
    cold = Event(0, "stop" if repo in scenario.BASES else "evict", repo)
    later = rng.randint(40, 80)
    takings = [Event(later, "revoke", ask.token)] if ask.token in scenario.REVOCABLE else []
    takings += [Event(later, "private", link) for link in scenario.chain(repo) if link in scenario.ADAPTERS]
    rejected = [link for link in scenario.chain(repo) if link in scenario.GATED]
    user = scenario.holder(ask.token)
    takings += [Event(later, "gate", link, user, "rejected") for link in rejected if user]
    return (cold, rng.choice(takings)) if takings else (cold,)


def _undone(event: Event) -> Event:
    """What gives back what an ambush took."""
    opposite = {"revoke": "unrevoke", "private": "private", "gate": "gate"}[event.kind]
    if event.kind == "private" and not scenario.MODELS[event.subject].private:
        opposite = "public"
    return replace(event, kind=opposite, value="accepted" if event.kind == "gate" else None)


def _event(rng: Random) -> Event:
    after, kind = rng.randint(0, 60), _choose(rng, _EVENTS)
    if kind in ("revoke", "unrevoke"):
        return Event(after, kind, rng.choice(scenario.REVOCABLE))
    if kind == "gate":
        user = rng.choice(("alice", "bob", "carol", "eve"))
        return Event(after, kind, rng.choice(scenario.GATED), user, rng.choice(_GATES))
    if kind in ("private", "public"):
        return Event(after, kind, rng.choice((*scenario.ADAPTERS, scenario.PRIVATE)))
    if kind == "commit":
        return Event(after, kind, rng.choice((*scenario.ADAPTERS, *scenario.BASES)))
    if kind == "evict":
        return Event(after, kind, rng.choice(scenario.ADAPTERS))
    if kind == "stop":
        return Event(after, kind, rng.choice(scenario.BASES))
    if kind == "outage":
        paths = rng.choice(("*", "*", "*/auth-check", "*/whoami-v2"))
        return Event(after, kind, paths, value=rng.choice(_OUTAGES))
    return Event(after, kind, rng.choice(scenario.REISSUED))


def _choose(rng: Random, weights: Mapping[Choice, int]) -> Choice:
    return rng.choices(tuple(weights), tuple(weights.values()))[0]
