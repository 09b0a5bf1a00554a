"""threats.md, row 20 on the real clock: how long callers who never pause are served after they lost access.

A request counts by when it began. What is decided is decided after that, so that a slow machine can
make a caller wait for a refusal but cannot make a right answer look late.
"""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, time

import pytest
from aiohttp import web

from hubgate.demo import answers, api
from hubgate.demo.state import HubState
from tests.fakes.answers import completion
from tests.fakes.engine import RawEngine
from tests.fakes.raw import RawAnswer
from tests.fakes.running_proxy import ALICE, BASE, BOB, PRIVATE, Edge

ACCESS, IDENTITY = 2.0, 4.0  # seconds
EVE, SERVICE, PENDING = "hf_demo_eve", "hf_demo_service", "hf_demo_pending"
OPEN, FLIPPED = "demo/open", "demo/flipped"
PACE = 0.01  # seconds between two requests of a caller
LATER = 20  # requests after the first refusal


@dataclass(frozen=True, slots=True)
class Case:
    """Who loses what, how, and how long it may take."""

    user: str
    token: str
    model: str
    taken: Callable[[HubState], object]
    code: str
    bound: float = ACCESS
    question: str = "auth-check"  # whose answer, remembered, lets the caller in


CASES = {
    "gated, token revoked": Case("bob", BOB, BASE, lambda hub: hub.revoke(BOB), "invalid_api_key"),
    "private, token revoked": Case("alice", ALICE, PRIVATE, lambda hub: hub.revoke(ALICE), "invalid_api_key"),
    "gate closed": Case(
        "service", SERVICE, BASE, lambda hub: hub.set_gate(BASE, "service", "rejected"), "access_denied"
    ),
    "made private": Case(
        "pending", PENDING, FLIPPED, lambda hub: hub.set_private(FLIPPED, private=True), "model_not_found"
    ),
    "public, token revoked": Case(
        "eve", EVE, OPEN, lambda hub: hub.revoke(EVE), "invalid_api_key", IDENTITY, "whoami-v2"
    ),
}


async def test_row_20_a_revocation_counts_within_its_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    """Busy callers are not served a second after `access_ttl`, or `identity_ttl` on a public repo."""

    def anyone_may_read(request: web.Request) -> str | None:
        # The real Hub's auth-check of a public repo is no test of the token; the demo Hub's is.
        return None if OPEN in request.path else answers.bearer(request)

    monkeypatch.setattr(api, "bearer", anyone_may_read)
    hub = {"identity_ttl": IDENTITY, "access_ttl": ACCESS, "denial_ttl": 0.5}
    settings = {"hub": hub, "limits": {"requests_per_minute": 10**6}}
    async with Edge.start(tmp_path, settings) as edge, AsyncExitStack() as stack:
        for name in (OPEN, FLIPPED):
            engine = await stack.enter_async_context(RawEngine.start())
            engine.always(completion())
            sha = edge.hub.state.add_repo(name, {"config.json": b"{}"})
            edge.backend.host(engine, f"{name}@{sha}", id=name)
        await edge.backend.greeted(2)
        worst = await asyncio.gather(*[lose(edge, case) for case in CASES.values()])
    told = {name: round(seconds, 2) for name, seconds in zip(CASES, worst, strict=True)}
    record_property("served_after_revocation_seconds", told)
    print(f"access_ttl {ACCESS}, identity_ttl {IDENTITY}; last served after {told}")  # noqa: T201
    assert max(worst) > 0  # what was remembered did serve on, so that the bound was put to the test


async def lose(edge: Edge, case: Case) -> float:
    """Use until the Hub was asked ahead of time, lose access at once, use on; gives when last served."""
    while len(positive(edge, case)) < 2:
        assert (await used(edge, case)).status == 200
    case.taken(edge.hub.state)
    taken, answered = monotonic(), positive(edge, case)[-1] - time()
    last = 0.0
    while True:
        began = monotonic() - taken
        answer = await used(edge, case)
        if answer.status != 200:
            break
        last = began
        assert last <= case.bound + 1, f"{case.user} was still served {last:.2f} s after the revocation"
        assert last - answered <= case.bound + 1  # and counted from the Hub's last yes
    assert answer.code == case.code
    for _ in range(LATER):
        assert (await used(edge, case)).status == answer.status
    return last


async def used(edge: Edge, case: Case) -> RawAnswer:
    await asyncio.sleep(PACE)
    return await edge.chat(case.model, case.token)


def positive(edge: Edge, case: Case) -> list[float]:
    """When the Hub said yes to this caller's question."""
    return [
        entry.time
        for entry in edge.hub.log
        if entry.path.endswith(case.question)
        and (case.question == "whoami-v2" or case.model in entry.path)
        and entry.status == 200
        and entry.user == case.user
    ]
