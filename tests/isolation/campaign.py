"""Runs a campaign: step after step of a seed, each answer judged in the moment it comes."""

import asyncio
from pathlib import Path
from typing import Any

from tests.isolation import plan, scenario
from tests.isolation.attempt import Attempt, Kind
from tests.isolation.client import Answer
from tests.isolation.harness import Harness
from tests.isolation.plan import Ask, Event, Step
from tests.isolation.report import Report
from tests.isolation.world import World

LOOKBACK = 90.0  # seconds of history that a report tells


async def run(folder: Path, seed: int, attempts: int, until: Kind | None = None) -> Report:
    """Go on until so many attempts were judged, or one was wrong: in that way, if one is named."""
    report = Report(seed)
    async with Harness.start(folder) as harness:
        world = World(harness)
        number = 0
        while report.attempts < attempts and not (report.kinds[until] if until else report.faults):
            await Run(harness, world, report, number).step(plan.step(seed, number))
            number += 1
    return report


class Run:
    """One step under way."""

    def __init__(self, harness: Harness, world: World, report: Report, number: int) -> None:
        self._lab = harness
        self._world = world
        self._report = report
        self._number = number

    async def step(self, step: Step) -> None:
        """Everything of the step at once; then what it left behind is accounted for."""
        harness = self._lab
        if step.slow_loads:
            harness.machines.gate.clear()
        async with asyncio.TaskGroup() as group:
            for index, ask in enumerate(step.asks):
                group.create_task(self._ask(ask, f"s{self._report.seed}-{self._number:05}-{index}"))
            happening = [asyncio.create_task(self._happen(event)) for event in step.events]
            happening.append(asyncio.create_task(self._leap(*step.leap)))
            await asyncio.gather(*happening)
            harness.machines.gate.set()
        self._account()
        self._read_log()
        harness.outage_checker.settle()
        for event in step.amends:
            self._world.happen(event)
        self._world.step_over()
        await self._lab.pass_time(step.rest)

    async def _ask(self, ask: Ask, request_id: str) -> None:
        await turns(ask.after)
        harness = self._lab
        self._read_log()
        attempt = Attempt(
            id=request_id,
            token=ask.token,
            repo=ask.repo,
            revision=ask.revision,
            text=harness.text(ask.repo, ask.revision),
            began=harness.clock(),
            evictions=harness.access_model.evictions[scenario.chain(ask.repo)[0]],
            known=harness.expected_cache.knows(ask.token, ask.repo, ask.revision),
            silenced=harness.outage_checker.silent(ask.token),
            reeling=harness.outage_checker.reeling(ask.revision),
        )
        answer = await harness.client.ask(*_request(ask, attempt))
        _note(attempt, answer)
        attempt.upstream = tuple(harness.machines.seen.get(attempt.id, ()))
        attempt.loads = tuple(harness.machines.loads(attempt.id))
        verdict = harness.checker.check(attempt)
        history = harness.access_model.history(ask.token, ask.repo, attempt.began - LOOKBACK)
        self._report.add(self._number, attempt, verdict, history)

    async def _happen(self, event: Event) -> None:
        await turns(event.after)
        self._world.happen(event)

    async def _leap(self, after: int, seconds: float) -> None:
        await turns(after)
        await self._lab.pass_time(seconds)

    def _read_log(self) -> None:
        self._lab.expected_cache.read(self._lab.hub.log)
        self._lab.outage_checker.read(self._lab.hub.log)
        self._lab.hub.log.clear()

    def _account(self) -> None:
        """No request may have reached an engine but those of this step's attempts."""
        prefix = f"s{self._report.seed}-{self._number:05}-"
        strangers = [known for known in self._lab.machines.seen if not known.startswith(prefix)]
        if strangers:
            self._report.faults.append(f"wrongly served: nobody asked for {strangers}, step {self._number}")
        self._lab.machines.settle()


def _request(ask: Ask, attempt: Attempt) -> tuple[str, str, str, str, Any]:
    token = scenario.secret(ask.token)
    if not ask.repo:
        return "GET", ask.endpoint, token, attempt.id, None
    body: dict[str, Any] = {"model": attempt.text, "stream": ask.stream, "max_tokens": 2}
    if ask.endpoint == "/v1/completions":
        body["prompt"] = "hello"
    else:
        body["messages"] = [{"role": "user", "content": "hello"}]
    return "POST", ask.endpoint, token, attempt.id, body


def _note(attempt: Attempt, answer: Answer) -> None:
    attempt.status = answer.status
    if answer.status != 200:
        attempt.code = answer.code
    elif attempt.repo:
        attempt.answered = answer.model
    else:
        attempt.listed = answer.listed


async def turns(count: int) -> None:
    """Let the event loop turn: where in the others' work this falls is what the seed explores."""
    for _ in range(count):
        await asyncio.sleep(0)
