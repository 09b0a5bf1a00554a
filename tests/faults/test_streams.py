"""Callers of cold models who stream: heartbeats first, and then whatever happens is told in the stream."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import pytest
import pytest_asyncio

from hubgate.demo.hub import DemoHub
from tests.fakes.raw import RawClient
from tests.fakes.running_proxy import eventually
from tests.faults.caller import Outcome, held, plain, streamed
from tests.faults.cell import ASKED, BASE, prepare, until_good
from tests.faults.faults import FAULTS, outage
from tests.faults.stack import Stack

Cold = Literal["base cold", "adapter cold"]
COLD: tuple[Cold, ...] = ("base cold", "adapter cold")
SOON = {"heartbeat_after": 0.02, "plain_wait": 1}
SERVED = Outcome(status=200, code="ok")

pytestmark = pytest.mark.parametrize("temperature", COLD)


@pytest_asyncio.fixture
async def stack(temperature: Cold, tmp_path: Path, repos: Path) -> AsyncIterator[Stack]:
    """One that beats soon, at this temperature."""
    cold_start = {**SOON, "plain_wait": 20}
    async with (
        DemoHub.start(repos=repos) as hub,
        Stack.start(tmp_path, hub, cold_start=cold_start) as running,
    ):
        await prepare(running, temperature)
        yield running


def _fetched(stack: Stack) -> list[str]:
    return stack.hub.log.paths("files")


async def test_a_connection_that_is_cut_once_is_not_seen(stack: Stack, temperature: Cold) -> None:
    """The download is taken up again, and the stream is whole."""
    model = ASKED[temperature]
    async with FAULTS["cut at half"].inject(stack, model) as fired:
        assert await streamed(stack, model, temperature) == SERVED
        assert await fired()


async def test_one_that_is_always_cut_is_told_in_the_stream(stack: Stack, temperature: Cold) -> None:
    """After the last attempt; the answer cannot look complete, and the next one is served."""
    model = ASKED[temperature]
    async with outage("cut", "files", half=True)(stack, model) as fired:
        outcome = await streamed(stack, model, temperature)
        assert outcome == Outcome(status=200, code="hub_unavailable", event=True)
        assert await fired()
    assert not await until_good(stack, model)


async def test_an_engine_that_crashes_at_its_start_is_told_in_the_stream(
    stack: Stack, temperature: Cold
) -> None:
    """Where an engine has to be started; a running one takes the adapter and answers."""
    model = ASKED[temperature]
    told = Outcome(status=200, code="no_upstream", event=True)
    async with FAULTS["engine crash at start"].inject(stack, model) as fired:
        outcome = await streamed(stack, model, temperature)
        assert outcome == (told if temperature == "base cold" else SERVED)
        assert await fired() == (temperature == "base cold")
    await until_good(stack, model)


async def test_a_caller_who_leaves_after_a_beat_leaves_the_load(stack: Stack, temperature: Cold) -> None:
    """It goes on for whoever comes next, who causes no second download."""
    model, before = ASKED[temperature], len(_fetched(stack))
    async with held(stack, temperature) as reached, RawClient.connect(stack.proxy.port) as client:
        await client.send(stack.sent({"model": model, "stream": True}))
        await reached()
        assert b"200 OK" in await client.until(b": hubgate loading " + model.encode())
        client.leave()

        async def understood() -> bool:
            return stack.audited(499) == ["client_left"]

        await eventually(understood)
    assert await streamed(stack, model, temperature) == SERVED
    assert len(_fetched(stack)) == before + 1


async def test_concurrent_callers_share_one_load(stack: Stack, temperature: Cold) -> None:
    """Streamed and plain ones alike: the weights are asked for once, and there is one engine."""
    model, before = ASKED[temperature], len(_fetched(stack))
    async with held(stack, temperature) as reached:
        asks = [ask(stack, model, temperature) for ask in (plain, streamed) * 3]
        asking = asyncio.gather(*asks)
        await reached()
    assert await asking == [SERVED] * 6
    assert len(_fetched(stack)) == before + 1
    (engine,) = (await stack.backend.hello()).engines
    assert engine.base == stack.backend.sha(BASE)


async def test_who_cannot_wait_comes_again_to_what_was_loaded_meanwhile(
    temperature: Cold, tmp_path: Path, repos: Path
) -> None:
    """`model_loading` after `plain_wait`, with a Retry-After; the load lingers, and is not begun anew."""
    async with DemoHub.start(repos=repos) as hub, Stack.start(tmp_path, hub, cold_start=SOON) as stack:
        model = ASKED["base cold"]
        await prepare(stack, "base cold")
        async with held(stack, temperature) as reached:
            told = await plain(stack, model, temperature)
            await reached()
        assert told == Outcome(status=503, code="model_loading", retry=True)

        async def served() -> bool:
            outcome = await plain(stack, model, temperature)
            assert outcome in (SERVED, told)  # on a slow machine the start of the engine may take as long
            return outcome == SERVED

        await eventually(served)
        assert len(_fetched(stack)) == 1
