"""The bounds hold in the vLLM that is installed; in a process of its own, since they replace its methods."""

import json
import subprocess
import sys
from typing import Any

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]

SCRIPT = '''
import asyncio, json, os
from types import SimpleNamespace

os.environ["VLLM_CHAT_TEMPLATE_RENDER_TIMEOUT"] = "0.2"

import llguidance
from jinja2.sandbox import ImmutableSandboxedEnvironment
from vllm.exceptions import VLLMValidationError
from vllm.renderers.base import _SwappableExecutor
from vllm.renderers.hf import HfRenderer
from vllm.renderers.params import TokenizeParams
from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest, FinishReason
from vllm.v1.engine.output_processor import OutputProcessor, RequestOutputCollector
from vllm.v1.metrics.stats import IterationStats, PrefillStats
from vllm.v1.structured_output.backend_guidance import GuidanceBackend
from vllm.v1.structured_output.backend_types import StructuredOutputOptions

from hubgate.backend.plugin import grammars, prompts
from hubgate.backend.plugin.shares import running

renderer = HfRenderer.__new__(HfRenderer)
renderer._executor = _SwappableExecutor(1)
renderer._tokenize_prompt_async = None
renderer.tokenizer = None
renderer.model_config = SimpleNamespace(renderer_num_workers=1, max_model_len=512)
for _ in range(2):  # harmless when repeated
    prompts.bound_prompts(renderer)
    grammars.bound_compilers()
    running.watch()
told = {}
templates = ImmutableSandboxedEnvironment()
long = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


async def main():
    work = asyncio.get_running_loop().run_in_executor(renderer._executor, templates.from_string(long).render)
    threads = list(renderer._executor._inner._threads)
    try:
        await renderer._render_with_timeout(work)
    except TimeoutError:
        for thread in threads:
            thread.join(60)
        told["looping"] = [thread.is_alive() for thread in threads]
    for name, prompt, params in (
        ("text", {"prompt": "x" * 70_000}, TokenizeParams(max_total_tokens=None)),
        ("ids", {"prompt_token_ids": [1] * 5000}, TokenizeParams(None, needs_detokenization=True)),
    ):
        try:
            await renderer._tokenize_singleton_prompt_async(prompt, params)
        except VLLMValidationError as error:
            told[name] = str(error)


asyncio.run(main())
try:
    templates.from_string("{{ 9 ** 999999999 }}").render()
except OverflowError:
    told["power"] = "refused"

backend = GuidanceBackend.__new__(GuidanceBackend)
backend.ll_tokenizer, backend.vocab_size = llguidance.LLTokenizer("byte"), 257
backend.disable_any_whitespace = backend.disable_additional_properties = False


def steps(kind, text):
    """How many letters a matcher takes before it gives up, and why it did."""
    matcher = backend.compile_grammar(StructuredOutputOptions[kind], text).ll_matcher
    for step in range(400):
        matcher.compute_bitmask()
        if matcher.is_error() or not matcher.consume_token(ord("a")):
            return step, matcher.get_error()
    return 400, ""


told["ambiguous"] = steps("GRAMMAR", 'start: s\\ns: s s | s s s | "a" |')
told["ordinary"] = steps("GRAMMAR", 'start: "a" start | "b"')
told["regex"] = steps("REGEX", "[a-z]*")
outputs, stats, count = OutputProcessor(None, log_stats=True), IterationStats(), running.Running(None, 2)


def step(name, *tokens, prompt=0, cached=0, end=None):
    read = PrefillStats() if prompt else None
    if read is not None:
        read.set(prompt, cached, 0)
    output = EngineCoreOutput(name, list(tokens), prefill_stats=read, finish_reason=end)
    outputs.process_outputs([output], 1.0, stats)


with running.watched(count):
    for name in ("ends", "left"):
        params = SamplingParams(detokenize=False, output_kind=RequestOutputKind.DELTA)
        request = EngineCoreRequest(name, [1] * 10, None, params, None, 0.0, None, None, None)
        request.external_req_id = name
        outputs.add_request(request, None, None, 0, RequestOutputCollector(params.output_kind, name))
step("ends", 1, 2, prompt=10, cached=4)
step("left", 1, prompt=10)
step("ends", 3, end=FinishReason.STOP)
outputs.abort_requests(["left"], internal=True)
step("left", 4)
told["counted"] = [count.prompt, count.cached, count.completion, count._active]
told["by vLLM"] = [stats.prompt_token_stats.total, stats.num_generation_tokens]
print(json.dumps(told))
'''


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """What became of everything, from one process."""
    done = subprocess.run([sys.executable, "-P", "-c", SCRIPT], capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_template_that_loops_leaves_no_thread(told: dict[str, Any]) -> None:
    """VLLM alone would leave it running beside the event loop until the engine ends."""
    assert told["looping"] == [False]


def test_a_template_computes_no_vast_number(told: dict[str, Any]) -> None:
    """That would hold the whole process, and cannot be interrupted."""
    assert told["power"] == "refused"


def test_what_the_model_cannot_take_is_not_tokenized(told: dict[str, Any]) -> None:
    """Nor do so many tokens become text; vLLM has no bound for either on these routes."""
    assert "65536 at most" in told["text"]
    assert "4096 at most" in told["ids"]


def test_an_ambiguous_grammar_ends_early(told: dict[str, Any]) -> None:
    """With llguidance's own limits it goes on, at up to a second a token; the error repeats nothing."""
    step, error = told["ambiguous"]
    assert step < 100
    assert error
    assert "start" not in error


def test_ordinary_grammars_go_on(told: dict[str, Any]) -> None:
    """The limits are far above what they need."""
    assert told["ordinary"] == [400, ""]
    assert told["regex"] == [400, ""]


def test_the_tokens_of_a_request_are_those_that_vllm_counts(told: dict[str, Any]) -> None:
    """Also of who leaves, until they do; what has ended runs no more."""
    assert told["counted"] == [20, 4, 4, 1]
    assert told["by vLLM"] == [20, 4]
