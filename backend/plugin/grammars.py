"""Bounds what callers' schemas, regular expressions and grammars cost the engine.

They are llguidance's (vLLM's backend "guidance"). vLLM compiles each twice: in the API process, on its event
loop, to refuse what is wrong, and in the engine core, in threads that those of others wait for. In the core a
mask is computed at every step, and all running requests wait for it.

- Every compiler gets limits far below its own: some hundredths of a second for a mask.
- What is new is compiled in a thread of the API process first, one at a time and callers in turn, and refused
  if that fails or takes too long. So the core gets no more of them than it can compile.
- Of one caller's requests with dear ones only a few run at a time; others of theirs wait.
"""

import asyncio
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from decimal import Decimal, InvalidOperation
from functools import partial
from hashlib import blake2b
from math import lcm
from typing import Any, Final

from hubgate.backend.plugin.fair_queue import FairQueue
from hubgate.backend.plugin.preparation import current
from hubgate.backend.plugin.shares import running
from hubgate.backend.plugin.vllm_methods import wrap
from hubgate.wire.bounded_map import BoundedMap

MAX_CHARACTERS: Final = 128 * 1024  # of a schema, that of all tools where a call is forced
MAX_MULTIPLE: Final = 10_000  # of `multipleOf`, without its factors 2 and 5: one state for each remainder
SECONDS: Final = 5.0  # that compiling may take
THREADS: Final = 4  # one that takes longer cannot be stopped: the next ones go on in another
CHEAP: Final = 0.05  # seconds; what compiles faster is remembered, and not compiled again here
REMEMBERED: Final = 512
SIMPLE: Final = 8 * 1024  # characters of a schema without patterns, whose masks take less than a millisecond
DEAR_AT_ONCE: Final = 4  # requests of one caller

_NOT_SIMPLE: Final = ("pattern", "multipleOf", "\\")  # in a backslash's place there may be any letter
Key = tuple[str, str]
Compile = Callable[[Key], str]

_compiled: ContextVar[Key | None] = ContextVar("compiled", default=None)


class GrammarError(ValueError):
    """Its text is for the caller."""


def fault(kind: str, text: str) -> str | None:
    """Why this is not even compiled. `kind` is a value of vLLM's `StructuredOutputOptions`, by its name."""
    if len(text) > MAX_CHARACTERS:
        return f"it is {len(text)} characters long, and may be {MAX_CHARACTERS} long at most here"
    if kind == "GRAMMAR" and "%json" in text:
        return "a grammar may not hold `%json` here; send a schema instead"
    if kind in ("JSON", "STRUCTURAL_TAG") and _multiple(text) > MAX_MULTIPLE:
        return (
            f"its values of `multipleOf` have a common multiple above {MAX_MULTIPLE}, factors 2 and 5 apart"
        )
    return None


def is_dear(kind: str, text: str) -> bool:
    """Whether a mask may take long."""
    if kind in ("JSON_OBJECT", "CHOICE"):
        return False
    return kind != "JSON" or len(text) > SIMPLE or any(word in text for word in _NOT_SIMPLE)


def _multiple(text: str) -> int:
    """The least common multiple of all `multipleOf` in a schema, without the factors 2 and 5 of each."""
    found = 1
    layer: list[Any] = [json.loads(text, parse_float=str)]
    while layer:
        one = layer.pop()
        if isinstance(one, dict):
            layer.extend(one.values())
            if "multipleOf" in one:
                found = lcm(found, _odd(one["multipleOf"]))
                if found > MAX_MULTIPLE:
                    break
        elif isinstance(one, list):
            layer.extend(one)
    return found


def _odd(value: Any) -> int:
    try:
        number = Decimal(str(value))
        _, digits, exponent = number.as_tuple()
    except InvalidOperation:
        return 1  # no number: llguidance says so
    if not isinstance(exponent, int) or len(digits) > 20:
        return MAX_MULTIPLE + 1
    whole = int("".join(map(str, digits)))
    for factor in (2, 5):
        while whole and whole % factor == 0:
            whole //= factor
    return max(1, whole)


class GrammarGate:
    """Compiles what is new, before the engine core has to."""

    def __init__(
        self, compile_: Compile, seconds: float = SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`compile_` runs in a thread, for so many seconds, and gives what is wrong, or nothing."""
        self._compile = compile_
        self._seconds = seconds
        self._clock = clock
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="grammars")
        self._turns = FairQueue(1)
        self._known: BoundedMap[bytes, str] = BoundedMap(REMEMBERED)  # what is wrong with it, or nothing
        self._dear: dict[str, tuple[FairQueue, int]] = {}

    async def admit(self, key: Key) -> None:
        """Wait until this may go to the engine core. Raises `GrammarError`.

        The request's turn among large ones is given back first: others wait for that, and this may take long.
        """
        preparation = current()
        caller = ""
        if preparation is not None:
            caller = preparation.caller
            preparation.submitted()
        # By caller, so that nobody can tell by the time what others send.
        digest = blake2b("\0".join((caller, *key)).encode("utf-8", "surrogatepass"), digest_size=16).digest()
        wrong = self._known.get(digest)
        if wrong is None:
            wrong = await self._check(key, caller, digest)
        if wrong:
            raise GrammarError(wrong)
        if preparation is not None and is_dear(*key):
            if preparation.dear is None:
                preparation.dear = asyncio.create_task(self._enter(caller))
                preparation.until_end(partial(self._leave, caller, preparation.dear))
            await asyncio.shield(preparation.dear)  # the request's other prompts wait for it too

    async def _check(self, key: Key, caller: str, digest: bytes) -> str:
        await self._turns.enter(caller)
        began = self._clock()
        left = False

        def leave(_: object = None) -> None:
            nonlocal left
            if not left:
                left = True
                self._turns.leave()

        work = asyncio.get_running_loop().run_in_executor(self._threads, self._compile, key)
        work.add_done_callback(leave)  # also where its caller has left meanwhile
        done, _ = await asyncio.wait((work,), timeout=self._seconds)
        if done:
            wrong = work.result()
            cheap = self._clock() - began < CHEAP
        else:
            work.cancel()
            wrong, cheap = f"compiling it takes longer than {self._seconds:g} seconds", False
        if wrong or cheap:
            self._known.put(digest, wrong)
        return wrong

    async def _enter(self, caller: str) -> None:
        queue, users = self._dear.get(caller, (FairQueue(DEAR_AT_ONCE), 0))
        self._dear[caller] = queue, users + 1
        try:
            await queue.enter(caller)
        except asyncio.CancelledError:
            self._forget(caller)
            raise

    def _leave(self, caller: str, entering: asyncio.Task[None]) -> None:
        if entering.cancel() or entering.cancelled():  # it has not got in
            return
        queue, _ = self._dear[caller]
        queue.leave()
        self._forget(caller)

    def _forget(self, caller: str) -> None:
        queue, users = self._dear[caller]
        if users > 1:
            self._dear[caller] = queue, users - 1
        else:
            del self._dear[caller]


def bound_compilers() -> None:
    """Give every compiler in this process of vLLM's our limits. Raises `VllmDiffersError`."""
    import llguidance  # noqa: PLC0415 - this file is read where no vLLM is
    from vllm.v1.structured_output import backend_guidance  # noqa: PLC0415

    def compiling(original: Any) -> Any:
        del original

        def compile_grammar(
            self: Any, request_type: Any, grammar_spec: str, stop_token_ids: Any = None
        ) -> Any:
            """As vLLM's, with limits (vllm/v1/structured_output/backend_guidance.py, `GuidanceBackend`)."""
            del stop_token_ids
            text = backend_guidance.serialize_guidance_grammar(
                request_type, grammar_spec, self.disable_any_whitespace, self.disable_additional_properties
            )
            grammar = backend_guidance.GuidanceGrammar(
                ll_matcher=llguidance.LLMatcher(
                    self.ll_tokenizer, text, log_level=_log_level(), limits=_limits(request_type.name)
                ),
                ll_tokenizer=self.ll_tokenizer,
                vocab_size=self.vocab_size,
            )
            grammar.check_error()
            return grammar

        return compile_grammar

    def validating(original: Any) -> Any:
        def validate_guidance_grammar(sampling_params: Any, tokenizer: Any = None) -> None:
            if _compiled.get() != _key(sampling_params.structured_outputs):
                original(sampling_params, tokenizer)

        return validate_guidance_grammar

    wrap(
        backend_guidance.GuidanceBackend,
        "compile_grammar",
        "self request_type grammar_spec stop_token_ids",
        compiling,
    )
    wrap(backend_guidance, "validate_guidance_grammar", "sampling_params tokenizer", validating)


def admit_in(engine_client: Any) -> None:
    """Let this API process admit grammars before its engine gets them. Raises `VllmDiffersError`."""
    from vllm.exceptions import VLLMValidationError  # noqa: PLC0415

    guided = engine_client.vllm_config.structured_outputs_config.backend == "guidance"
    gate = GrammarGate(_compiler(engine_client))

    def adding(original: Any) -> Any:
        async def add_request(
            self: Any, request_id: str, prompt: Any, params: Any, *more: Any, **named: Any
        ) -> Any:
            structured = getattr(params, "structured_outputs", None)
            if guided and structured is not None and not structured.all_constraints_none():
                key = _key(structured)
                try:
                    await gate.admit(key)
                except GrammarError as error:
                    raise VLLMValidationError(f"Grammar error: {error}") from None
                _compiled.set(key)
            request = running.current()
            if request is not None and (told := request.priority()) is not None:
                named["priority"] = told  # also of speech and batches, for which vLLM has no header
            queue = await original(self, request_id, prompt, params, *more, **named)
            if (preparation := current()) is not None:
                preparation.submitted()
            return queue

        return add_request

    wrap(
        type(engine_client),
        "add_request",
        "self request_id prompt params arrival_time lora_request tokenization_kwargs trace_headers priority"
        " data_parallel_rank session_id prompt_text reasoning_ended reasoning_parser_kwargs kv_hints",
        adding,
    )


def _compiler(engine_client: Any) -> Compile:
    """What compiles as the engine core of this client does."""
    import llguidance  # noqa: PLC0415
    from vllm.v1.structured_output import backend_guidance  # noqa: PLC0415
    from vllm.v1.structured_output.backend_types import StructuredOutputOptions  # noqa: PLC0415

    config = engine_client.vllm_config
    made: list[Any] = []

    def compile_(key: Key) -> str:
        kind, text = key
        if wrong := fault(kind, text):
            return wrong
        if not made:
            vocabulary = config.model_config.get_vocab_size()
            made.append(
                backend_guidance.GuidanceBackend._build_ll_tokenizer(  # noqa: SLF001
                    engine_client.renderer.get_tokenizer(), vocabulary
                )
            )
        outputs = config.structured_outputs_config
        try:
            grammar = backend_guidance.serialize_guidance_grammar(
                StructuredOutputOptions[kind],
                text,
                outputs.disable_any_whitespace,
                outputs.disable_additional_properties,
            )
        except (ValueError, KeyError, TypeError) as error:
            return str(error)
        matcher = llguidance.LLMatcher(made[0], grammar, log_level=0, limits=_limits(kind))
        return str(matcher.get_error()).partition("\n")[0]

    return compile_


def _key(structured: Any) -> Key:
    from vllm.v1.structured_output.request import get_structured_output_key  # noqa: PLC0415

    kind, text = get_structured_output_key(structured)
    return kind.name, text


def _limits(kind: str) -> Any:
    """What a compiler may use; its own are 2,000 in a row, 50,000 items, 200,000 and 1,000,000 of fuel.

    With those, one mask took 0.9 seconds for a grammar of 45 bytes. It was long rows that cost; but a schema
    has four in a row for each property that may be left out, and is cheap.
    """
    from llguidance import LLParserLimits  # noqa: PLC0415

    schema = kind in ("JSON", "JSON_OBJECT")
    return LLParserLimits(
        max_items_in_row=2000 if schema else 300,
        step_max_items=20_000 if schema else 50_000,
        step_lexer_fuel=100_000,
        initial_lexer_fuel=500_000,
        max_lexer_states=20_000,  # up to 2 kB each
        precompute_large_lexemes=False,
        verbose_errors=False,  # they would repeat what the caller wrote, in the log
    )


def _log_level() -> int:
    return int(os.environ.get("LLGUIDANCE_LOG_LEVEL", "1"))
