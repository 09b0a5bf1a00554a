"""`/v1/audio/transcriptions` and `/v1/audio/translations`: OpenAI's reference and vLLM's request models.

They are forms (RFC 7578), so a value comes as text; the types say what it must read as.
"""

from typing import Any, Literal

from hubgate.proxy.fields.shapes import Positive
from hubgate.proxy.fields.table import Field, Refused, Table, field, refused
from hubgate.proxy.fields.unsupported import BACKGROUND, ENGINE, TEMPLATE_SWITCHES

_COMMON: tuple[Field | Refused, ...] = (
    field("file", Any, "OpenAI; the recording itself", required=True),
    field("model", str, "what is authorized, and sent on under its pinned name", required=True),
    field("prompt", str, "OpenAI"),
    field("temperature", float, "OpenAI"),
    field("language", str, "OpenAI"),
    field("to_language", str, "vLLM; the language of the answer"),
    field("hotwords", str, "vLLM; words to listen for"),
    field("stream", bool, "OpenAI"),
    field("stream_include_usage", bool, "vLLM"),
    field("stream_continuous_usage_stats", bool, "vLLM"),
    field("top_p", float, "vLLM"),
    field("top_k", int, "vLLM"),
    field("min_p", float, "vLLM"),
    field("seed", int, "vLLM"),
    field("frequency_penalty", float, "vLLM"),
    field("repetition_penalty", float, "vLLM"),
    field("presence_penalty", float, "vLLM"),
    field("max_completion_tokens", Positive, "vLLM; more than the context holds is 400, by the engine"),
    field("n", Positive, "vLLM; each is a generation of its own", cap="max_n"),
    field("length_penalty", float, "vLLM; of no effect without beam search"),
    field("include_stop_str_in_output", bool, "vLLM"),
    *ENGINE,
    TEMPLATE_SWITCHES,
    BACKGROUND,
)

TRANSCRIPTIONS = Table(
    *_COMMON,
    field("response_format", Literal["json", "text", "srt", "verbose_json", "vtt"], "OpenAI"),
    field("timestamp_granularities", list[Literal["word", "segment"]], "OpenAI"),
    refused("chunking_strategy", "the engine cuts recordings by itself"),
    refused("include", "the engine gives no log-probabilities of a recording"),
    refused("keywords", "the engine's name for them is `hotwords`"),
    refused("languages", "the engine takes one `language`"),
    refused("known_speaker_names", "the engine tells no speakers apart"),
    refused("known_speaker_references", "the engine tells no speakers apart"),
)
TRANSLATIONS = Table(
    *_COMMON, field("response_format", Literal["json", "text", "srt", "verbose_json", "vtt"], "OpenAI")
)
