"""Tokens are counted where vLLM counts them, and sequences, for each request, whoever leaves whenever."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from hubgate.backend.plugin.shares.running import Running, watch_in, watched
from hubgate.backend.plugin.vllm_methods import VllmDiffersError


def make_processor() -> Any:
    """As `OutputProcessor` of vllm/v1/engine/output_processor.py, as far as it is watched."""

    class OutputProcessor:
        def __init__(self) -> None:
            self.request_states: dict[str, Any] = {}
            self.prompt = self.completion = 0

        def add_request(
            self, request: Any, prompt: Any, parent_req: Any = None, request_index: int = 0, queue: Any = None
        ) -> None:
            del prompt, parent_req, request_index, queue
            self.request_states[request.request_id] = SimpleNamespace(is_prefilling=True)

        def _update_stats_from_output(
            self, req_state: Any, engine_core_output: Any, engine_core_timestamp: Any, iteration_stats: Any
        ) -> None:
            del engine_core_timestamp, iteration_stats
            self.completion += len(engine_core_output.new_token_ids)
            if req_state.is_prefilling and engine_core_output.prefill_stats is not None:
                self.prompt += engine_core_output.prefill_stats.num_prompt_tokens
            req_state.is_prefilling = False

        def _finish_request(self, req_state: Any) -> None:
            self.request_states = {k: v for k, v in self.request_states.items() if v is not req_state}

        def step(self, request_id: str, *tokens: int, prompt: int = 0, cached: int = 0) -> None:
            state = self.request_states.get(request_id)
            if state is not None:
                stats = SimpleNamespace(num_prompt_tokens=prompt, num_cached_tokens=cached)
                output = SimpleNamespace(new_token_ids=tokens, prefill_stats=stats if prompt else None)
                self._update_stats_from_output(state, output, 0.0, None)

    watch_in(OutputProcessor)
    return OutputProcessor()


def add(processor: Any, request_id: str) -> None:
    processor.add_request(SimpleNamespace(request_id=request_id), "text")


def test_a_request_has_its_own_tokens_and_all_of_them() -> None:
    """The sums are vLLM's own."""
    processor = make_processor()
    counts = {name: Running() for name in "ab"}
    for name, count in counts.items():
        with watched(count):
            add(processor, name)
    add(processor, "supervisor")
    processor.step("a", 1, prompt=10, cached=4)
    processor.step("b", 1, 2, prompt=7)
    processor.step("a", 3, 4, 5)
    processor.step("supervisor", 1, prompt=1)
    told = {name: (count.prompt, count.cached, count.completion) for name, count in counts.items()}
    assert told == {"a": (10, 4, 4), "b": (7, 0, 2)}
    assert (processor.prompt, processor.completion) == (10 + 7 + 1, 4 + 2 + 1)


async def test_tasks_that_a_request_starts_count_for_it() -> None:
    """As with several prompts of one body, and several answers to one prompt."""
    processor, count = make_processor(), Running()

    async def adds(name: str) -> None:
        await asyncio.sleep(0)
        add(processor, name)

    with watched(count):
        tasks = [asyncio.create_task(adds(f"{number}")) for number in range(8)]
    await asyncio.gather(*tasks)
    for number in range(8):
        processor.step(f"{number}", 1, prompt=5)
    assert (count.prompt, count.completion) == (40, 8)


def test_what_was_made_for_who_left_is_watched() -> None:
    """Until vLLM lets go of the request, and no longer."""
    processor, count = make_processor(), Running()
    with watched(count):
        add(processor, "a")
    processor.step("a", 1, 2, prompt=3)
    del processor.request_states["a"]
    processor.step("a", 3)
    assert (count.prompt, count.completion) == (3, 2)


class Watching:
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, int]] = []
        self.needed: list[int] = []

    def tokens(self, read: int, made: int) -> None:
        self.heard.append((read, made))

    def sequences(self, count: int) -> None:
        self.needed.append(count)

    def priority(self, number: int) -> int | None:
        return 10 + number


def test_each_step_is_told_at_once() -> None:
    """What was computed of the prompt, and what was made; what the cache had cost nothing."""
    processor, watching = make_processor(), Watching()
    with watched(Running(watching)):
        add(processor, "a")
    processor.step("a", 1, prompt=10, cached=9)
    processor.step("a", 2, 3)
    assert watching.heard == [(1, 1), (0, 2)]


def test_the_sequences_that_are_left_are_told() -> None:
    """Of those that were said to come, and of those that are there, as each of them ends."""
    processor, watching = make_processor(), Watching()
    with watched(Running(watching, 3)):
        for name in "abc":
            add(processor, name)
    for state in list(processor.request_states.values()):
        processor._finish_request(state)
    assert watching.needed == [3, 3, 3, 2, 1, 0]


def test_a_request_that_goes_on_after_its_answer_needs_a_seat_again() -> None:
    """As one that calls a tool within vLLM, and more than it said."""
    processor, watching = make_processor(), Watching()
    with watched(Running(watching)):
        for name in "ab":
            add(processor, name)
            processor._finish_request(processor.request_states[name])
        add(processor, "c")
        add(processor, "d")
    assert watching.needed == [1, 0, 1, 0, 1, 2]


def test_the_prompts_of_one_request_stand_behind_each_other() -> None:
    """So that no batch stands before another caller's first."""
    running = Running(Watching())
    assert [running.priority() for _ in range(3)] == [10, 11, 12]
    assert Running().priority() is None


def test_a_further_part_is_no_further_sequence() -> None:
    """Of a request that comes in parts."""
    processor, watching = make_processor(), Watching()
    with watched(Running(watching)):
        add(processor, "a")
        add(processor, "a")
    assert watching.needed == [1]


def test_another_vllm_does_not_start() -> None:
    """Where its methods are not what was read, nothing is counted wrong: the engine ends."""

    class Other:
        def add_request(self, request: Any) -> None: ...

    with pytest.raises(VllmDiffersError):
        watch_in(Other)
