"""Bounds what tokenizing a text and rendering a template cost the engine's API process.

Template and tokenizer come from the base model's repo, and what they do costs callers of this engine alone.
Here it is seen to that no text is longer than the model could take, and that a template ends.
"""

import asyncio
import ctypes
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

from hubgate.backend.plugin.preparation import longest
from hubgate.backend.plugin.vllm_methods import wrap

LONG: Final = 64 * 1024  # characters that take a thread of their own, about a tenth of a second
LEAST_IDS: Final = 4096  # tokens that become text again, of any model
STUCK: Final = 30.0  # seconds after which a template that did not end ends its engine
MAX_PRODUCT: Final = 1_000_000  # elements of what a template makes by multiplication
MAX_BITS: Final = 4096  # of a number in a template


class TemplateTimeoutError(BaseException):
    """Raised in the thread of a template that takes too long; no template catches it."""


def bound_prompts(renderer: Any) -> None:
    """Bound what this API process reads, with its one renderer. Raises `VllmDiffersError`."""
    from jinja2.sandbox import SandboxedEnvironment  # noqa: PLC0415 - this file is read where no vLLM is
    from vllm.entrypoints.pooling.scoring.io_processor import CrossEncoderIOProcessor  # noqa: PLC0415
    from vllm.renderers.base import BaseRenderer  # noqa: PLC0415
    from vllm.renderers.hf import HfRenderer  # noqa: PLC0415

    renderer._tokenize_prompt_async = _long_apart(renderer)  # noqa: SLF001
    wrap(BaseRenderer, "_tokenize_singleton_prompt", "self prompt params", _checking)
    wrap(BaseRenderer, "_tokenize_singleton_prompt_async", "self prompt params", _checking)
    wrap(
        CrossEncoderIOProcessor,
        "get_score_prompt",
        "self data_1 data_2 encode_kwargs chat_template max_tokens_per_query max_tokens_per_doc"
        " chat_template_kwargs",
        _cutting_pair,
    )
    wrap(HfRenderer, "_replace_executor", "self", _interrupting)
    wrap(SandboxedEnvironment, "call_binop", "self context operator left right", _multiplying)
    SandboxedEnvironment.intercepted_binops = frozenset({"*", "**"})


def fit(text: str, most: int, *, cut: bool, side: str | None) -> str:
    """The text, or as much of it as is looked at where it is to be `cut`. Raises `ValueError`."""
    if len(text) <= most:
        return text
    if not cut:
        raise ValueError(
            f"A text of {len(text)} characters is too long for this model: there may be {most} at most here."
        )
    return text[-most:] if side == "left" else text[:most]


def _checking(original: Any) -> Any:
    """Both of vLLM's ways to tokens check here, the asynchronous one before its coroutine runs."""

    def checked(self: Any, prompt: Any, params: Any) -> Any:
        from vllm.exceptions import VLLMValidationError  # noqa: PLC0415

        context: int = self.model_config.max_model_len
        ids, text = prompt.get("prompt_token_ids"), prompt.get("prompt")
        try:
            if ids is not None and params.needs_detokenization:
                fit_ids(len(ids), context)
            elif ids is None and isinstance(text, str):
                side = params.truncation_side or getattr(self.tokenizer, "truncation_side", None)
                cut = params.truncate_prompt_tokens is not None
                prompt["prompt"] = fit(text, longest(context), cut=cut, side=side)
        except ValueError as error:
            raise VLLMValidationError(str(error)) from None
        return original(self, prompt, params)

    return checked


def fit_ids(count: int, context: int) -> None:
    """Raises `ValueError` if so many tokens are more than the model could have made."""
    most = max(LEAST_IDS, context)
    if count > most:
        raise ValueError(f"{count} tokens are too many for this model: there may be {most} at most here.")


def _cutting_pair(original: Any) -> Any:
    """A cross-encoder tokenizes pairs by itself, on the event loop."""

    def get_score_prompt(
        self: Any, data_1: Any, data_2: Any, encode_kwargs: Any, *more: Any, **named: Any
    ) -> Any:
        from vllm.exceptions import VLLMValidationError  # noqa: PLC0415

        most = longest(self.model_config.max_model_len)
        cut = bool(more[1:3] and any(more[1:3])) or any(
            named.get(name) for name in ("max_tokens_per_query", "max_tokens_per_doc")
        )
        try:
            data_1, data_2 = (
                fit(data, most, cut=cut, side=None) if isinstance(data, str) else data
                for data in (data_1, data_2)
            )
        except ValueError as error:
            raise VLLMValidationError(str(error)) from None
        return original(self, data_1, data_2, encode_kwargs, *more, **named)

    return get_score_prompt


def _long_apart(renderer: Any) -> Any:
    """Tokenize long texts in a thread of their own, so that short ones do not wait behind them."""
    from vllm.tokenizers.hf import ThreadSafeHFTokenizerMixin  # noqa: PLC0415

    usual = renderer._tokenize_prompt_async  # noqa: SLF001
    if not isinstance(renderer.tokenizer, ThreadSafeHFTokenizerMixin):
        return usual  # it is not to be used by two threads at a time
    thread = ThreadPoolExecutor(1, thread_name_prefix="long-texts")

    async def tokenize(prompt: Any, params: Any) -> Any:
        if len(prompt["prompt"]) <= LONG:
            return await usual(prompt, params)
        work = partial(renderer._tokenize_prompt, prompt, params)  # noqa: SLF001
        return await asyncio.get_running_loop().run_in_executor(thread, work)

    return tokenize


def _interrupting(original: Any) -> Any:
    """VLLM leaves a template that takes too long to itself, and goes on in a new thread; here it ends."""

    def _replace_executor(self: Any) -> None:
        threads = list(self._executor._inner._threads)  # noqa: SLF001
        original(self)
        interrupt(threads)
        asyncio.get_running_loop().call_later(STUCK, end_if_alive, threads)

    return _replace_executor


def interrupt(threads: list[threading.Thread]) -> None:
    """Raise `TemplateTimeoutError` in these threads, at their next step of Python code."""
    for thread in threads:
        if thread.ident is not None and thread.is_alive():
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(thread.ident), ctypes.py_object(TemplateTimeoutError)
            )


def end_if_alive(threads: list[threading.Thread], end: Callable[[int, int], None] = os.kill) -> None:
    """End this engine if one of the threads goes on: it would take turns with the event loop for good."""
    if any(thread.is_alive() for thread in threads):
        end(os.getpid(), signal.SIGKILL)


def _multiplying(original: Any) -> Any:
    """One operation cannot be interrupted, so that none may be vast."""

    def call_binop(self: Any, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator in ("*", "**"):
            check_product(operator, left, right)
        return original(self, context, operator, left, right)

    return call_binop


def check_product(operator: str, left: Any, right: Any) -> None:
    """Raises `OverflowError`, as the sandbox does for a vast `range`, if the product would be vast."""
    if isinstance(left, int) and isinstance(right, int):
        bits = (
            left.bit_length() * max(1, right) if operator == "**" else left.bit_length() + right.bit_length()
        )
        vast = bits > MAX_BITS
    else:
        pairs = ((left, right), (right, left))
        vast = any(
            isinstance(many, str | bytes | list | tuple)
            and isinstance(times, int)
            and len(many) * times > MAX_PRODUCT
            for many, times in pairs
        )
    if vast:
        raise OverflowError("a template multiplies beyond measure")
