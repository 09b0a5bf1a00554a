"""threats.md, row 20: how long a caller is still served after access was taken away, on the proxy's clock."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest
from aiohttp import web

from hubgate.demo import answers, api
from tests.isolation import scenario
from tests.isolation.harness import BOUNDS, Harness
from tests.isolation.plan import Event
from tests.isolation.world import World

TRIALS = 40


@dataclass(frozen=True, slots=True)
class Case:
    """One way to lose access, and how it comes back."""

    token: str
    repo: str
    taken: Event
    given: Event


def _token(token: str, repo: str) -> Case:
    return Case(token, repo, Event(0, "revoke", token), Event(0, "unrevoke", token))


def _gate(token: str, repo: str, gated: str) -> Case:
    taken, given = (Event(0, "gate", gated, token, value) for value in ("rejected", "accepted"))
    return Case(token, repo, taken, given)


def _flip(token: str, repo: str) -> Case:
    return Case(token, repo, Event(0, "private", repo), Event(0, "public", repo))


GUARDED = (
    _token("alice", scenario.PRIVATE),
    _token("bob", scenario.GATED_BASE),
    _gate("bob", scenario.GATED_BASE, scenario.GATED_BASE),
    _gate("alice", scenario.PRIVATE, scenario.GATED_BASE),  # by way of the adapter's base
    _gate("alice", scenario.GATED_LORA, scenario.GATED_LORA),
    _flip("eve", scenario.PUBLIC),
)
OPEN = (
    _token("eve", scenario.PUBLIC),
    _token("bob", scenario.OPEN_BASE),
    _token("alice", scenario.OPEN_BASE),
)


async def served(harness: Harness, case: Case) -> bool:
    body = {"model": case.repo, "prompt": "hello"}
    answer = await harness.client.ask(
        "POST", "/v1/completions", scenario.secret(case.token), "revocation", body
    )
    assert answer.status in (200, 401, 403, 404), answer
    return answer.status == 200


async def trial(harness: Harness, rng: Random, case: Case, bound: float) -> tuple[float, float]:
    """Use, take away, use on until refused; gives when it was last served and when first refused.

    Some use it all the time, so that the proxy asks ahead of time, and some now and then.
    """
    world, busy = World(harness), rng.random() < 0.5
    for _ in range(rng.randint(1, 25)):
        assert await served(harness, case)
        await harness.pass_time(rng.choice((0.0, rng.uniform(0, 2), rng.uniform(0, 12))))
    assert await served(harness, case)
    world.happen(case.taken)
    since, last = harness.clock(), 0.0
    while await served(harness, case):
        last = harness.clock() - since
        await harness.pass_time(rng.uniform(0.05, 1.0) if busy else rng.uniform(0, bound / 2))
    refused = harness.clock() - since if busy else last
    world.happen(case.given)
    await harness.pass_time(BOUNDS.denial + 0.1)
    return last, refused


async def worst(harness: Harness, seed: int, cases: tuple[Case, ...], bound: float) -> tuple[float, float]:
    rng = Random(seed)  # noqa: S311 - must be repeatable
    trials = [await trial(harness, rng, case, bound) for _ in range(TRIALS) for case in cases]
    return max(last for last, _ in trials), max(refused for _, refused in trials)


async def test_guarded_models_end_within_the_access_ttl(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """A revoked token, a rejected request and a repo made private end access within `access_ttl`."""
    async with Harness.start(tmp_path) as harness:
        last, refused = await worst(harness, 20, GUARDED, BOUNDS.access)
    record_property("revocation_guarded_seconds", refused)
    print(f"access_ttl {BOUNDS.access} s: last served {last:.2f} s, first refused {refused:.2f} s")  # noqa: T201
    assert BOUNDS.access / 2 < last <= BOUNDS.access
    assert refused <= BOUNDS.access + 1


async def test_public_models_end_within_the_identity_ttl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    """A revoked token ends its use of public models within `identity_ttl`, though anyone may read them."""

    def anyone(request: web.Request) -> str | None:
        # The real Hub's auth-check of a public repo is no test of the token; the demo Hub's is.
        return answers.bearer(request) if request.path == "/api/whoami-v2" else None

    monkeypatch.setattr(api, "bearer", anyone)
    async with Harness.start(tmp_path) as harness:
        last, refused = await worst(harness, 20, OPEN, BOUNDS.identity)
    record_property("revocation_public_seconds", refused)
    print(f"identity_ttl {BOUNDS.identity} s: last served {last:.2f} s, first refused {refused:.2f} s")  # noqa: T201
    assert BOUNDS.identity / 2 < last <= BOUNDS.identity
    assert refused <= BOUNDS.identity + 1
