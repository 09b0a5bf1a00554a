"""What the plugin asks of vLLM's engine is there, read from its source: importing it takes ten seconds."""

import ast
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.engine


@cache
def _module(path: str) -> ast.Module:
    spec = find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    return ast.parse(Path(spec.origin).parent.joinpath(path).read_text(encoding="utf-8"))


def _method(path: str, owner: str, name: str) -> ast.FunctionDef | ast.AsyncFunctionDef:
    (kind,) = [n for n in _module(path).body if isinstance(n, ast.ClassDef) and n.name == owner]
    (found,) = [
        n for n in kind.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef) and n.name == name
    ]
    return found


def _calls(node: ast.AST) -> set[str]:
    """Names of the methods that are called in it."""
    calls = [n.func for n in ast.walk(node) if isinstance(n, ast.Call)]
    return {call.attr for call in calls if isinstance(call, ast.Attribute)}


@pytest.mark.parametrize(
    ("name", "arguments", "answer"),
    [
        ("sleep", "self, level: int=1, mode: PauseMode='abort'", "None"),
        ("wake_up", "self, tags: list[str] | None=None", "bool"),
        ("remove_lora", "self, lora_id: int", "bool"),
        ("get_supported_tasks", "self", "tuple[SupportedTask, ...]"),
    ],
)
def test_the_engine_client_has_what_the_plugin_calls(name: str, arguments: str, answer: str) -> None:
    """With these arguments and this answer: `wake_up` says whether all of it is awake."""
    method = _method("v1/engine/async_llm.py", "AsyncLLM", name)
    assert isinstance(method, ast.AsyncFunctionDef)
    assert method.returns is not None
    assert (ast.unparse(method.args), ast.unparse(method.returns)) == (arguments, answer)


def test_sleep_at_level_1_clears_every_cache_of_answers() -> None:
    """Nobody may hit, after the wake-up, what another caller left before the sleep."""
    core, path = "EngineCore", "v1/engine/core.py"
    sleep = ast.unparse(_method(path, core, "sleep"))
    assert "clear_prefix_cache = level >= 1" in sleep
    assert "self.pause_scheduler(mode=mode, clear_cache=clear_prefix_cache)" in sleep
    for owner in (core, "EngineCoreProc"):
        assert "_finish_pause" in ast.unparse(_method(path, owner, "pause_scheduler"))
    assert "_reset_caches" in _calls(_method(path, core, "_finish_pause"))
    resets = {"reset_prefix_cache", "reset_mm_cache", "reset_encoder_cache"}
    assert resets <= _calls(_method(path, core, "_reset_caches"))
    assert "clear_mm_cache_async" in _calls(_method("v1/engine/async_llm.py", "AsyncLLM", "sleep"))


def test_the_cpu_has_no_sleep_mode() -> None:
    """`hubgate.backend.app.check` refuses it there; when this fails, it may be tried."""
    method = ast.unparse(_method("platforms/interface.py", "Platform", "is_sleep_mode_available"))
    assert "in (PlatformEnum.CUDA, PlatformEnum.ROCM, PlatformEnum.XPU)" in method


def test_the_flag_is_vllms_own() -> None:
    """And the routes that vLLM has for sleep stay where dev mode alone brings them."""
    assert "'--enable-sleep-mode'" in ast.unparse(_module("engine/arg_utils.py"))
    assert "'/sleep'" in ast.unparse(_module("entrypoints/serve/dev/sleep/api_router.py"))


def test_tokens_pass_where_they_are_counted() -> None:
    """Each output, before its request is let go of; and `add_request` leaves the request's state behind."""
    path, owner = "v1/engine/output_processor.py", "OutputProcessor"
    arguments = {
        "add_request": "self, request: EngineCoreRequest, prompt: str | None,"
        " parent_req: ParentRequest | None=None, request_index: int=0,"
        " queue: RequestOutputCollector | None=None",
        "_update_stats_from_output": "self, req_state: RequestState, engine_core_output: EngineCoreOutput,"
        " engine_core_timestamp: float | None, iteration_stats: IterationStats | None",
    }
    arguments["_finish_request"] = "self, req_state: RequestState"
    for name, expected in arguments.items():
        assert ast.unparse(_method(path, owner, name).args) == expected
    assert "self.request_states[request_id] = req_state" in ast.unparse(_method(path, owner, "add_request"))
    process = ast.unparse(_method(path, owner, "process_outputs"))
    counted, first = process.index("self._update_stats_from_output("), process.index("is_prefilling = False")
    assert counted < first
    counts = ast.unparse(_method("v1/metrics/stats.py", "IterationStats", "update_from_output"))
    assert "num_new_generation_tokens = len(output.new_token_ids)" in counts
    assert "self.prompt_token_stats.update_from_output(output.prefill_stats)" in counts


def test_a_priority_is_told_where_a_request_is_added() -> None:
    """By name, so that ours can stand in its place; a victim is found by it, where KV blocks run out.

    Its header is taken away, under the name that it has; a third adapter would be skipped but for the gate.
    """
    for name in ("generate", "encode"):
        assert "priority=priority" in ast.unparse(_method("v1/engine/async_llm.py", "AsyncLLM", name))
    text = ast.unparse(_module("entrypoints/generate/base/serving.py"))
    assert "PRIORITY_HEADER = 'X-Vllm-Priority'" in text
    schedule = ast.unparse(_method("v1/core/sched/scheduler.py", "Scheduler", "schedule"))
    assert "key=lambda r: (r.priority, r.arrival_time)" in schedule
    assert "len(scheduled_loras) == self.lora_config.max_loras" in schedule
