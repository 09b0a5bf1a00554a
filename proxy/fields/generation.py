"""`/v1/chat/completions` and `/v1/completions`: OpenAI's reference and vLLM's request models."""

from typing import Literal

from hubgate.proxy.fields.content import (
    Message,
    Prediction,
    Prompts,
    ResponseFormat,
    Tool,
    ToolChoice,
    schema_as_openai,
)
from hubgate.proxy.fields.sampling import GENERATION, PROMPT_LOGPROBS, SWITCHES
from hubgate.proxy.fields.shapes import (
    GRAMMAR,
    TOOLS,
    Effort,
    Messages,
    Metadata,
    Natural,
    Positive,
    Tier,
    Tools,
)
from hubgate.proxy.fields.table import MutuallyExclusive, Product, Table, dropped, field, refused
from hubgate.proxy.fields.unsupported import (
    BACKGROUND,
    DOCUMENTS,
    ELSEWHERE,
    ENGINE,
    GUIDED,
    TEMPLATE_SWITCHES,
)

_FORMAT = field(
    "response_format", ResponseFormat, "OpenAI; a schema is compiled, so it is bounded", max_bytes=GRAMMAR
)

CHAT = Table(
    *GENERATION,
    field("messages", Messages[Message], "OpenAI; walked: known parts and keys, media inside", required=True),
    field("max_tokens", Positive, "OpenAI; more than the context holds is 400, by the engine"),
    field("max_completion_tokens", Positive, "OpenAI; the newer name of `max_tokens`"),
    field("logprobs", bool, "OpenAI"),
    field("top_logprobs", Natural, "OpenAI; -1 would be the whole vocabulary", cap="max_logprobs"),
    _FORMAT,
    field("tools", Tools[Tool], "OpenAI; functions only, which callers run themselves", max_bytes=TOOLS),
    field("tool_choice", Literal["none", "auto", "required"] | ToolChoice, "OpenAI"),
    field("parallel_tool_calls", bool, "OpenAI"),
    field("reasoning_effort", Effort, "OpenAI; one word that the model's template may read"),
    field("include_reasoning", bool, "vLLM; leaves reasoning out of the answer"),
    field("add_generation_prompt", bool, "vLLM"),
    field("continue_final_message", bool, "vLLM"),
    field("metadata", Metadata, "OpenAI; ignored"),
    field("service_tier", Tier, "OpenAI; ignored"),
    field("verbosity", Literal["low", "medium", "high"], "OpenAI; ignored"),
    field("modalities", list[Literal["text"]], "OpenAI; the engine writes text"),
    field("prediction", Prediction, "OpenAI; ignored"),
    SWITCHES,
    dropped("store", "OpenAI; chats are never stored here, and the engine ignores it"),
    dropped("reasoning", "OpenRouter; the engine reads `reasoning_effort`"),
    *ELSEWHERE,
    refused("echo", PROMPT_LOGPROBS, harmless=(False,)),
    refused("audio", "the engine writes text only"),
    refused("functions", "it is deprecated and the engine ignores it; use `tools`"),
    refused("function_call", "it is deprecated and the engine ignores it; use `tool_choice`"),
    refused("web_search_options", "the engine fetches nothing"),
    refused("moderation", "the engine does not moderate"),
    refused("best_of", "chat has `n`", harmless=(1,)),
    *GUIDED,
    *ENGINE,
    DOCUMENTS,
    BACKGROUND,
    translate=schema_as_openai,
)

COMPLETIONS = Table(
    *GENERATION,
    field("prompt", Prompts, "OpenAI; texts or token ids", required=True, cap="max_n"),
    field("suffix", str, "OpenAI; the engine says if the model takes it"),
    field("max_tokens", Positive, "OpenAI; more than the context holds is 400, by the engine"),
    field("best_of", Positive, "OpenAI; the engine ignores it", cap="max_n"),
    field("logprobs", Natural, "OpenAI", cap="max_logprobs"),
    field("echo", bool, "OpenAI; not with `logprobs`"),
    _FORMAT,
    field("metadata", Metadata, "ignored"),
    dropped("store", "OpenAI has it on chat; nothing is stored here"),
    *ELSEWHERE,
    *GUIDED,
    *ENGINE,
    TEMPLATE_SWITCHES,
    DOCUMENTS,
    BACKGROUND,
    translate=schema_as_openai,
    product=Product(("prompt", "n"), "max_n"),
    exclusive=MutuallyExclusive(("echo", "logprobs"), PROMPT_LOGPROBS),
)
