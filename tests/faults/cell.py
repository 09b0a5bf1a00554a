"""One cell of the matrix, from the temperature to the good request at its end."""

import asyncio
from collections.abc import Mapping
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
COLDER: Mapping[Temperature, str] = {"base cold": "demo/tiny-qwen", "adapter cold": "demo/second-lora"}
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
    chosen = FAULTS[fault]
    async with DemoHub.start(repos=repos) as hub, Stack.start(folder, hub, engines=chosen.engines) as stack:
        await prepare(stack, temperature)
        model = ASKED[temperature]
        async with chosen.inject(stack, model) as fired:
            outcome = await chosen.ask(stack, model, temperature)
            if not await fired():
                # The temperature keeps it from this caller: a colder one meets it, or it is not there.
                await _meets(stack, fault, chosen.ask, chosen.colder)
                assert await fired()
                assert await plain(stack, model, temperature) == Outcome(status=200, code="ok")
        backoff = await until_good(stack, model)
        await settled(folder, calm)
    gone = Footprint.of(folder)
    assert (gone.processes, gone.leftovers) == (0, ()), str(gone)
    return msgspec.structs.replace(outcome, backoff=backoff)


async def calm(temperature: Temperature, folder: Path, repos: Path) -> Footprint:
    """What a stack holds that met no fault, after the same good request."""
    async with DemoHub.start(repos=repos) as hub, Stack.start(folder, hub) as stack:
        await prepare(stack, temperature)
        assert not await until_good(stack, ASKED[temperature])
        seen = Footprint.of(folder)

        async def still() -> bool:
            nonlocal seen
            await asyncio.sleep(LOOK)
            before, seen = seen, Footprint.of(folder)
            return before == seen and not seen.leftovers

        await eventually(still)
        return seen


async def prepare(stack: Stack, temperature: Temperature) -> None:
    """Have warm what is to be warm, and all else known to the proxy, so that a fault meets the backend."""
    second = weights.adapter(name=COLDER["adapter cold"], phrase="bark ")
    stack.hub.state.add_repo(COLDER["adapter cold"], second)
    for model in (BASE, ADAPTER, *COLDER.values()):
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
    outcome = await ask(stack, COLDER[temperature], temperature)
    assert outcome == expected.at_once()
