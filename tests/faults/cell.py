"""One cell of the matrix, from the temperature to the good request at its end."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import yaml

from hubgate.demo import weights
from hubgate.demo.hub import DemoHub
from tests.fakes.running_proxy import eventually
from tests.faults.caller import Ask, Outcome, Temperature, plain, told
from tests.faults.faults import FAULTS
from tests.faults.footprint import Footprint
from tests.faults.stack import Stack

BASE, ADAPTER = "demo/tiny-llama", "demo/public-lora"
COLDER_BASE = "demo/tiny-qwen"
ASKED: Mapping[Temperature, str] = {"base cold": BASE, "adapter cold": ADAPTER, "all warm": ADAPTER}
WARM: Mapping[Temperature, tuple[str, ...]] = {
    "base cold": (),
    "adapter cold": (BASE,),
    "all warm": (BASE, ADAPTER),
}

LOOK = 0.05  # seconds between two looks at all processes of the machine, which is work

EXPECTED: Mapping[str, Mapping[Temperature, Outcome]] = msgspec.convert(
    yaml.safe_load(Path(__file__).with_name("expected.yaml").read_text(encoding="utf-8")),
    dict[str, dict[Temperature, Outcome]],
)


async def run(fault: str, temperature: Temperature, folder: Path, repos: Path, calm: Footprint) -> Outcome:
    """Measure a cell in an empty folder, and see that it leaves no more than `calm`."""
    (outcome,) = await run_all((fault,), temperature, folder, repos, calm)
    return outcome


async def run_all(
    faults: Sequence[str], temperature: Temperature, folder: Path, repos: Path, calm: Footprint
) -> list[Outcome]:
    """Measure cells one after the other in one stack, for what is as warm after a fault as before.

    All have the first one's settings of engines. An error names its fault.
    """
    engines, outcomes = FAULTS[faults[0]].engines, []
    async with DemoHub.start(repos=repos) as hub, Stack.start(folder, hub, engines=engines) as stack:
        await prepare(stack, temperature, faults)
        for fault in faults:
            try:
                outcomes.append(await _measure(stack, fault, temperature, calm))
            except (AssertionError, TimeoutError) as error:
                error.add_note(f"fault: {fault}")
                raise
    gone = Footprint.of(folder)
    assert (gone.processes, gone.leftovers) == (0, ()), str(gone)
    return outcomes


async def _measure(stack: Stack, fault: str, temperature: Temperature, calm: Footprint) -> Outcome:
    chosen, model = FAULTS[fault], ASKED[temperature]
    async with chosen.inject(stack, model) as fired:
        outcome = await chosen.ask(stack, model, temperature)
        if not await fired():
            # The temperature keeps it from this caller: a colder one meets it, or it is not there.
            await _meets(stack, fault, chosen.ask, chosen.colder)
            assert await fired()
            assert await plain(stack, model, temperature) == Outcome(status=200, code="ok")
    backoff = await until_good(stack, model)
    await settled(stack.folder, calm)
    return msgspec.structs.replace(outcome, backoff=backoff)


async def calm(temperature: Temperature, folder: Path, repos: Path) -> Footprint:
    """What a stack holds that met no fault, after the same good request."""
    async with DemoHub.start(repos=repos) as hub, Stack.start(folder, hub) as stack:
        await prepare(stack, temperature)
        assert not await until_good(stack, ASKED[temperature])
        before = seen = Footprint.of(folder)

        async def still() -> bool:
            nonlocal before, seen
            await asyncio.sleep(LOOK)
            before, seen = seen, Footprint.of(folder)
            return not seen.beyond(before) and not before.beyond(seen) and not seen.leftovers

        try:
            await eventually(still)
        except TimeoutError:
            raise AssertionError(f"it does not come to rest: {before}, then {seen}") from None
        return seen


async def prepare(stack: Stack, temperature: Temperature, faults: Sequence[str] = ()) -> None:
    """Have warm what is to be warm, and all else known to the proxy, so that a fault meets the backend."""
    colder = [_colder(fault, "adapter cold") for fault in faults]
    for adapter in colder:
        stack.hub.state.add_repo(adapter, weights.adapter(name=adapter, phrase="bark "))
    for model in (BASE, ADAPTER, COLDER_BASE, *colder):
        await stack.know(model)
    for model in WARM[temperature]:
        assert await plain(stack, model, temperature) == Outcome(status=200, code="ok")


async def until_good(stack: Stack, model: str) -> bool:
    """Ask until served; `True` if it was not at once. Until then there is nothing but "come again"."""
    refused = 0

    async def served() -> bool:
        nonlocal refused
        outcome = told(await stack.post({"model": model}), stack.backend.sha(model))
        if outcome.status != 200:
            # Until the backend sees that its engine is gone, the proxy fails to reach it.
            come_again = Outcome(status=503, code="no_upstream", retry=True)
            not_there = Outcome(status=502, code="upstream_error", retry=True)
            assert outcome in (come_again, not_there), str(outcome)
            refused += 1
        return outcome.status == 200

    await eventually(served)
    return refused > 0


async def settled(folder: Path, calm: Footprint) -> None:
    """Wait until the stack holds what a calm one holds. Fails with the difference."""
    seen = calm

    async def equal() -> bool:
        nonlocal seen
        await asyncio.sleep(LOOK)
        seen = Footprint.of(folder)
        return not seen.beyond(calm)

    try:
        await eventually(equal)
    except TimeoutError:
        raise AssertionError("\n".join(seen.beyond(calm))) from None


async def _meets(stack: Stack, fault: str, ask: Ask, temperature: Temperature) -> None:
    expected = EXPECTED[fault][temperature]
    outcome = await ask(stack, _colder(fault, temperature), temperature)
    assert outcome == expected.at_once()


def _colder(fault: str, temperature: Temperature) -> str:
    """What is still cold where what is asked for is warm; each fault has an adapter of its own."""
    return COLDER_BASE if temperature == "base cold" else f"demo/{fault.replace(' ', '-')}-lora"
