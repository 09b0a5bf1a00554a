"""A hung engine is told from a busy one by what it gets done."""

import asyncio
from collections.abc import Callable

import pytest

from hubgate.backend.engines.client import EngineError
from hubgate.backend.engines.watchdog import until_hung
from hubgate.backend.metrics import progress
from hubgate.backend.plugin.traffic import Status
from tests.fakes.clock import Clock
from tests.fakes.running_proxy import eventually

TIMEOUT = 0.02  # seconds of the fake clock; real ones pass only between two looks


class FakeEngine:
    """Answers as it is told; each look takes a hundredth of a second of the fake clock."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.in_flight = 1
        self.sent: Callable[[int], int] = lambda _: 7
        self.tokens: Callable[[int], int] = lambda _: 40
        self.silent = False
        self.generates = False
        self.looks = 0
        self.probes = 0

    async def status(self) -> Status:
        self.looks += 1
        self.clock.advance(0.01)
        if self.silent:
            raise EngineError("no answer")
        return Status(draining=False, in_flight=self.in_flight, sent=self.sent(self.looks), models={})

    async def metrics(self) -> str:
        return f'vllm:generation_tokens_total{{engine="0"}} {self.tokens(self.looks)}\n'

    async def generate(self, model: str, timeout: float) -> None:
        assert (model, timeout) == ("demo/base", TIMEOUT)
        self.probes += 1
        if not self.generates:
            raise EngineError("no token")


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(Clock())


async def _verdict(engine: FakeEngine, looks: int = 40) -> str:
    """`hung`, or `alive` after that many looks."""
    watch = asyncio.create_task(until_hung(engine, "demo/base", TIMEOUT, engine.clock))

    async def decided() -> bool:
        return engine.looks >= looks or watch.done()

    try:
        await eventually(decided)
        return "hung" if watch.done() else "alive"
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)


async def test_no_progress_and_no_token_is_a_hang(engine: FakeEngine) -> None:
    """It is asked before it is judged, and once is enough."""
    assert await _verdict(engine) == "hung"
    assert engine.probes == 1


async def test_an_engine_that_answers_nothing_at_all_hangs(engine: FakeEngine) -> None:
    """Its server may be stuck as well as its core."""
    engine.silent = True
    assert await _verdict(engine) == "hung"


async def test_an_idle_engine_is_not_asked(engine: FakeEngine) -> None:
    """Nothing is wrong with having nothing to do."""
    engine.in_flight = 0
    assert await _verdict(engine) == "alive"
    assert engine.probes == 0


async def test_streams_that_move_are_progress(engine: FakeEngine) -> None:
    """No token is asked for, however long a request takes."""
    engine.sent = lambda look: look
    assert await _verdict(engine) == "alive"
    assert engine.probes == 0


async def test_tokens_that_are_counted_are_progress(engine: FakeEngine) -> None:
    """Long answers that are not streamed send nothing until they end."""
    engine.tokens = lambda look: look
    assert await _verdict(engine) == "alive"
    assert engine.probes == 0


async def test_an_engine_that_still_generates_is_alive(engine: FakeEngine) -> None:
    """Its callers may be slow readers."""
    engine.generates = True
    assert await _verdict(engine) == "alive"
    assert engine.probes > 1


async def test_an_engine_too_full_for_the_probe_is_alive_if_it_moved_meanwhile(engine: FakeEngine) -> None:
    """The token that was asked for waits in the same queue as everybody's."""
    engine.sent = lambda _: engine.probes
    assert await _verdict(engine) == "alive"
    assert engine.probes > 1


def test_progress_is_read_from_what_vllm_counts() -> None:
    """Of steps and tokens; a caller who leaves a hung engine is no progress."""
    text = """
# HELP vllm:generation_tokens_total Number of generation tokens processed.
vllm:generation_tokens_total{engine="0",model_name="x y"} 12.0
vllm:iteration_tokens_total_sum{engine="0"} 30.0
vllm:kv_cache_usage_perc{engine="0"} 0.25
vllm:request_success_total{finished_reason="abort"} 5.0
vllm:generation_tokens_total broken
"""
    assert progress(text) == 42.25
    assert progress("") == 0
