"""What vLLM does for each request, while it does it: the tokens, and the sequences that run.

Of what vLLM offers, its statistics leave out requests that are left, and name them as their callers do. So
`OutputProcessor` (vllm/v1/engine/output_processor.py) is watched, through which every output passes:
`add_request` runs in the context of the request, or in a task that copied it, and `_update_stats_from_output`
is where vLLM counts. By construction the sums are those of `vllm:prompt_tokens` and
`vllm:generation_tokens`: a prompt counts at its first output, and once for each of several answers to it.
`_finish_request` is where a sequence has ended, however far its answer has been sent by then.
"""

from contextvars import ContextVar
from typing import Any, Protocol

from hubgate.backend.plugin.vllm_methods import wrap


class Watcher(Protocol):
    """Hears of what is done for one request."""

    def tokens(self, read: int, made: int) -> None:
        """So many tokens of a prompt were computed, and so many were made."""

    def sequences(self, count: int) -> None:
        """So many have to run from now on, those included that are to come."""

    def priority(self, number: int) -> int | None:
        """What vLLM is told for the next prompt, behind so many; `None`: nothing."""


class Running:
    """One request that was let in, with all its prompts and answers."""

    __slots__ = ("_active", "_claimed", "_prompts", "_watcher", "cached", "completion", "prompt")

    def __init__(self, watcher: Watcher | None = None, sequences: int = 1) -> None:
        """`sequences` are those that it is known to need."""
        self.prompt = 0  # tokens, as the next two
        self.cached = 0  # of the prompt, which cost nothing to read
        self.completion = 0
        self._watcher = watcher
        self._claimed = sequences  # that have not ended
        self._active = 0
        self._prompts = 0

    def add(self, prompt: int, cached: int, completion: int) -> None:
        """Count what one step of the engine's had to do with this request."""
        self.prompt += prompt
        self.cached += cached
        self.completion += completion
        if self._watcher is not None:
            self._watcher.tokens(max(0, prompt - cached), completion)

    def begin(self) -> None:
        """A sequence is with the engine."""
        self._active += 1
        if self._watcher is not None:
            self._watcher.sequences(max(self._claimed, self._active))

    def end(self) -> None:
        """A sequence has ended there."""
        self._active -= 1
        self._claimed -= 1
        if self._watcher is not None:
            self._watcher.sequences(max(0, self._claimed, self._active))

    def priority(self) -> int | None:
        """For the next prompt of the request: those of a large batch are behind each other."""
        number = self._prompts
        self._prompts += 1
        return None if self._watcher is None else self._watcher.priority(number)


_current: ContextVar[Running | None] = ContextVar("running", default=None)


def current() -> Running | None:
    """The request that this task works for; `None` for the supervisor's."""
    return _current.get()


class watched:  # noqa: N801 - used as a function; a generator would take three times as long
    """Take what runs in this context, and the tasks that it starts, for one request's."""

    __slots__ = ("_running", "_token")

    def __init__(self, running: Running) -> None:
        self._running = running

    def __enter__(self) -> None:
        self._token = _current.set(self._running)

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)


def watch() -> None:
    """Watch vLLM in this API process. Raises `VllmDiffersError`."""
    from vllm.v1.engine.output_processor import OutputProcessor  # noqa: PLC0415 - read where no vLLM is

    watch_in(OutputProcessor)


def watch_in(processor: Any) -> None:
    """Watch a class that is vLLM's `OutputProcessor`. Raises `VllmDiffersError`."""
    wrap(processor, "add_request", "self request prompt parent_req request_index queue", _adding)
    wrap(
        processor,
        "_update_stats_from_output",
        "self req_state engine_core_output engine_core_timestamp iteration_stats",
        _updating,
    )
    wrap(processor, "_finish_request", "self req_state", _finishing)


def _adding(original: Any) -> Any:
    def add_request(self: Any, request: Any, *more: Any, **named: Any) -> Any:
        known = request.request_id in self.request_states  # a further part of what comes in parts
        added = original(self, request, *more, **named)
        running = _current.get()
        if running is not None and not known:
            self.request_states[request.request_id].hubgate_running = running
            running.begin()
        return added

    return add_request


def _updating(original: Any) -> Any:
    def _update_stats_from_output(self: Any, req_state: Any, engine_core_output: Any, *more: Any) -> Any:
        running: Running | None = getattr(req_state, "hubgate_running", None)
        if running is not None:
            prompt = cached = 0
            # As `IterationStats.update_from_output` (vllm/v1/metrics/stats.py).
            if req_state.is_prefilling and (read := engine_core_output.prefill_stats) is not None:
                prompt, cached = read.num_prompt_tokens, read.num_cached_tokens
            running.add(prompt, cached, len(engine_core_output.new_token_ids))
        return original(self, req_state, engine_core_output, *more)

    return _update_stats_from_output


def _finishing(original: Any) -> Any:
    def _finish_request(self: Any, req_state: Any) -> Any:
        running: Running | None = getattr(req_state, "hubgate_running", None)
        if running is not None:
            running.end()
        return original(self, req_state)

    return _finish_request
