"""Which fields a request may carry, per endpoint: what is not listed is refused.

vLLM's request models take any field (`extra="allow"`), so this list is the only gate. The reason
stands beside each row; those that were left out on purpose are in `REFUSED`.
"""

from typing import Final

# OpenAI's API reference: sampling and output, common to chat and plain completions.
_SAMPLING: Final = frozenset(
    {
        "model",
        "stream",
        "stream_options",
        "temperature",
        "top_p",
        "n",
        "seed",
        "stop",
        "max_tokens",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
        "user",
    }
)
# vLLM's sampling extras that change only the caller's own tokens (vllm/sampling_params.py).
_VLLM_SAMPLING: Final = frozenset(
    {
        "top_k",
        "min_p",
        "min_tokens",
        "repetition_penalty",
        "length_penalty",
        "stop_token_ids",
        "include_stop_str_in_output",
        "ignore_eos",
        "skip_special_tokens",
        "spaces_between_special_tokens",
        "truncate_prompt_tokens",
        "add_special_tokens",
        "return_token_ids",
        "return_tokens_as_token_ids",
        "structured_outputs",
    }
)
_CHAT: Final = frozenset(
    {
        "messages",
        "max_completion_tokens",
        "logprobs",
        "top_logprobs",
        "response_format",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "reasoning_effort",
        "metadata",  # echoed nowhere by vLLM; the SDK sends it
        "store",  # accepted as false only
        "service_tier",
        "verbosity",
        "modalities",
        "prediction",
        "add_generation_prompt",
        "continue_final_message",
        "echo",
        "include_reasoning",
    }
)
_COMPLETIONS: Final = frozenset({"prompt", "suffix", "echo", "best_of", "logprobs", "response_format"})

ALLOWED: Final[dict[str, frozenset[str]]] = {
    "/v1/chat/completions": _SAMPLING | _VLLM_SAMPLING | _CHAT,
    "/v1/completions": _SAMPLING | _VLLM_SAMPLING | _COMPLETIONS,
}

# What makes each dangerous; used in the message of the refusal.
REFUSED: Final[dict[str, str]] = {
    "prompt_embeds": "embeddings are unpickled by the engine",
    "chat_template": "templates run in the engine",
    "chat_template_kwargs": "templates run in the engine",
    "documents": "they reach the chat template",
    "lora_request": "adapters are chosen by `model`",
    "kv_transfer_params": "it addresses other engines' memory",
    "ec_transfer_params": "it addresses other engines' memory",
    "vllm_xargs": "it reaches engine internals",
    "mm_processor_kwargs": "it reaches the media processor",
    "media_io_kwargs": "it reaches the media loader",
    "use_beam_search": "its cost is not bounded",
    "request_id": "ids are given by the proxy",
    "background": "responses are not stored",
    "cache_salt": "the proxy sets it, to keep tenants apart",
    "priority": "callers do not choose their place in the queue",
}

# Parts of a chat message's content: known types, and their keys. `uuid` is left out: it would stand
# in for the media's own hash in a cache that others share.
CONTENT_PARTS: Final[dict[str, frozenset[str]]] = {
    "text": frozenset({"type", "text"}),
    "refusal": frozenset({"type", "refusal"}),
    "image_url": frozenset({"type", "image_url"}),
    "input_audio": frozenset({"type", "input_audio"}),
    "video_url": frozenset({"type", "video_url"}),
    "audio_url": frozenset({"type", "audio_url"}),
}
MEDIA_KEYS: Final[dict[str, frozenset[str]]] = {
    "image_url": frozenset({"url", "detail"}),
    "video_url": frozenset({"url"}),
    "audio_url": frozenset({"url"}),
    "input_audio": frozenset({"data", "format"}),
}
MESSAGE_KEYS: Final = frozenset(
    {"role", "content", "name", "tool_calls", "tool_call_id", "refusal", "reasoning", "reasoning_content"}
)
