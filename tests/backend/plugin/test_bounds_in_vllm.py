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
from vllm.v1.structured_output.backend_guidance import GuidanceBackend
from vllm.v1.structured_output.backend_types import StructuredOutputOptions

from hubgate.backend.plugin import grammars, prompts

renderer = HfRenderer.__new__(HfRenderer)
renderer._executor = _SwappableExecutor(1)
renderer._tokenize_prompt_async = None
renderer.tokenizer = None
renderer.model_config = SimpleNamespace(renderer_num_workers=1, max_model_len=512)
for _ in range(2):  # harmless when repeated
    prompts.bound_prompts(renderer)
    grammars.bound_compilers()
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
