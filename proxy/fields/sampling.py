"""How tokens are drawn: OpenAI's parameters, and those of vLLM's that change only the caller's own tokens."""

from typing import Annotated, Literal

from msgspec import Meta

from hubgate.proxy.fields.shapes import GRAMMAR, Json, Natural, Positive, Shape, Stops, Token, Truncation
from hubgate.proxy.fields.table import Field, MustBeTrue, Refused, field, refused

_Bias = dict[Annotated[str, Meta(pattern=r"\A[0-9]{1,10}\Z")], Annotated[float, Meta(ge=-100, le=100)]]


class StreamOptions(Shape):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None


class StructuredOutputs(Shape):
    """vllm/sampling_params.py, `StructuredOutputsParams`, but for structural tags and how they are compiled.

    The compiler and its options are the operator's: the engine reads its own and ignores the request's.
    """

    json: Annotated[str, Meta(min_length=1)] | Json | None = None
    regex: Annotated[str, Meta(min_length=1, max_length=4096)] | None = None
    choice: Annotated[list[str], Meta(min_length=1, max_length=256)] | None = None
    grammar: Annotated[str, Meta(min_length=1, max_length=16384)] | None = None
    json_object: MustBeTrue | None = None


STRUCTURED = field(
    "structured_outputs",
    StructuredOutputs,
    "vLLM's; short texts only, because the engine compiles them and longer ones cost it minutes",
    max_bytes=GRAMMAR,
)

# Names that are more than a template's own variable: vLLM and transformers read them as their own
# (transformers' `apply_chat_template`, vllm/renderers/cohere.py), or the proxy decides about them.
_TAKEN = (
    "add_generation_prompt|available_tools|continue_final_message|conversation|documents|image_data|json_schema|"
    "max_length|messages|padding|raise_exception|response_format|strftime_now|tools|truncation"
)
_SWITCH = rf"\A(?!(?:{_TAKEN})\Z|.*(?:template|token|jinja)|return_)[A-Za-z][A-Za-z0-9_]{{0,63}}\Z"

# Switches of a model's own template, such as Qwen3's `enable_thinking`; flat: nothing in them is walked.
SWITCHES = field(
    "chat_template_kwargs",
    Annotated[
        dict[
            Annotated[str, Meta(pattern=_SWITCH)],
            bool
            | Annotated[int, Meta(ge=-(2**31), lt=2**31)]
            | float
            | Annotated[str, Meta(max_length=256)]
            | None,
        ],
        Meta(max_length=16),
    ],
    "vLLM; switches of the model's own template: flat, short, and none that the engine reads as its own",
)

# Common to chat, plain completions and responses.
BASIC: tuple[Field, ...] = (
    field("model", str, "what is authorized, and sent on under its pinned name", required=True),
    field("stream", bool, "OpenAI"),
    field("stream_options", StreamOptions, "OpenAI; the engine's statistics are the caller's own"),
    field("temperature", float, "OpenAI"),
    field("top_p", float, "OpenAI"),
    field("user", str, "OpenAI; the engine ignores it, the audit has the identity"),
    field("safety_identifier", str, "OpenAI; ignored like `user`"),
    field("prompt_cache_key", str, "OpenAI; ignored: caches are keyed by our salt"),
    field("presence_penalty", float, "OpenAI"),
    field("frequency_penalty", float, "OpenAI"),
    field(
        "logit_bias",
        Annotated[_Bias, Meta(max_length=1024)],
        "OpenAI; applied at every step, so not without end",
    ),
    field("seed", int, "OpenAI; the engine says which it takes"),
    field("stop", str | Stops, "OpenAI; searched at every step, so four at most"),
    field("top_k", int, "vLLM"),
    field("min_p", float, "vLLM"),
    field("repetition_penalty", float, "vLLM"),
    field(
        "stop_token_ids",
        Annotated[list[Token], Meta(max_length=128)],
        "vLLM; compared at every step, so not without end",
    ),
    field("include_stop_str_in_output", bool, "vLLM"),
    field("ignore_eos", bool, "vLLM; bounded by the model's context, as `max_tokens` is"),
    field("skip_special_tokens", bool, "vLLM"),
    STRUCTURED,
)

# vLLM 0.32 with LoRA, as it always runs here: the logits of a prompt's tokens meet a mapping made for one
# token of each request (vllm/v1/worker/gpu_model_runner.py, `_get_prompt_logprobs_dict`). Two requests in
# one batch are enough: the engine ends, and with it everybody's requests. [seen on the CPU build]
PROMPT_LOGPROBS = (
    "log-probabilities of a prompt can end the engine while it serves adapters (lm-eval asks for them in "
    "loglikelihood tasks; those that generate work)"
)

# Of chat and plain completions.
GENERATION: tuple[Field | Refused, ...] = (
    *BASIC,
    field("n", Positive, "OpenAI; each is a generation of its own", cap="max_n"),
    field("min_tokens", Natural, "vLLM; bounded by `max_tokens`"),
    field("length_penalty", float, "vLLM; of no effect without beam search"),
    field("spaces_between_special_tokens", bool, "vLLM"),
    field("truncate_prompt_tokens", Truncation, "vLLM; makes a prompt shorter"),
    field("truncation_side", Literal["left", "right"], "vLLM"),
    field("add_special_tokens", bool, "vLLM"),
    field("return_token_ids", bool, "vLLM; the caller's own tokens"),
    field("return_tokens_as_token_ids", bool, "vLLM; the caller's own tokens"),
    field("thinking_token_budget", int, "vLLM; less thinking, not more"),
    field("stream_interval", Annotated[int, Meta(ge=1, le=1000)], "vLLM; fewer events"),
    field(
        "allowed_token_ids",
        Annotated[list[Token], Meta(max_length=1024)],
        "vLLM; a mask made for each request, so not without end",
    ),
    field(
        "bad_words",
        Annotated[list[Annotated[str, Meta(max_length=100)]], Meta(max_length=64)],
        "vLLM; compared at every step in Python, so few and short",
    ),
    refused("prompt_logprobs", PROMPT_LOGPROBS),
    refused("logprob_token_ids", "`logprobs` gives them within its cap"),
    refused("repetition_detection", "a search at every step, as long as the caller likes"),
    refused("return_prompt_text", "it is for debugging templates; `/tokenize` shows what a prompt becomes"),
)
