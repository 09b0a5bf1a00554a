"""`/v1/embeddings`, `/v1/rerank` and `/v1/score`: OpenAI's, Jina's and vLLM's references, text only."""

from typing import Literal

from hubgate.proxy.fields.content import Prompts, Texts
from hubgate.proxy.fields.shapes import Natural, Positive, Truncation
from hubgate.proxy.fields.table import ExactlyOneOf, Field, Refused, Table, field, refused
from hubgate.proxy.fields.unsupported import BACKGROUND, DOCUMENTS, ENGINE, TEMPLATE_SWITCHES

_COMMON: tuple[Field | Refused, ...] = (
    field("model", str, "what is authorized, and sent on under its pinned name", required=True),
    field("user", str, "OpenAI; ignored, the audit has the identity"),
    field("truncate_prompt_tokens", Truncation, "vLLM; makes a text shorter"),
    field("truncation_side", Literal["left", "right"], "vLLM"),
    field("use_activation", bool, "vLLM; how the caller's own numbers are scaled"),
    refused("padding", "it makes the shortest text as dear as the longest"),
    *ENGINE,
    TEMPLATE_SWITCHES,
    BACKGROUND,
)

EMBEDDINGS = Table(
    *_COMMON,
    field("input", Prompts, "OpenAI; texts or token ids", required=True, cap="max_batch"),
    field("encoding_format", Literal["float", "base64"], "OpenAI; vLLM's others are not JSON"),
    field("dimensions", Positive, "OpenAI; the engine says which the model has"),
    field("add_special_tokens", bool, "vLLM"),
    field(
        "embed_dtype",
        Literal["float32", "float16", "bfloat16", "fp8_e4m3", "fp8_e5m2"],
        "vLLM; of base64",
    ),
    field("endianness", Literal["native", "big", "little"], "vLLM; of base64"),
    refused("messages", "send texts in `input`; conversations are not embedded here"),
    refused("add_generation_prompt", "conversations are not embedded here"),
    refused("continue_final_message", "conversations are not embedded here"),
    DOCUMENTS,
)

_SCORING = (
    *_COMMON,
    field("max_tokens_per_query", Natural, "vLLM; makes a text shorter"),
    field("max_tokens_per_doc", Natural, "vLLM, Cohere; makes a text shorter"),
    field("instruction", str, "vLLM; a text that the model's own template may show"),
)

RERANK = Table(
    *_SCORING,
    field("query", str, "Jina", required=True),
    field("documents", Texts, "Jina; texts only", required=True, cap="max_batch"),
    field("top_n", Natural, "Jina"),
    field("return_documents", bool, "Jina; ignored: the engine always gives them back"),
)

_PAIRS = (("queries", "documents"), ("queries", "items"), ("text_1", "text_2"), ("data_1", "data_2"))
SCORE = Table(
    *_SCORING,
    *(
        field(name, Texts, "vLLM; texts only", cap="max_batch")
        for name in dict.fromkeys(name for pair in _PAIRS for name in pair)
    ),
    one_of=ExactlyOneOf(tuple(frozenset(pair) for pair in _PAIRS)),
)
