"""`/v1/responses`: OpenAI's reference and vLLM's request model.

Nothing is stored: vLLM would keep responses for ever and show them to anyone who has the id. Tools are
functions, which callers run themselves: the others would make the engine, or what it asks, fetch.
"""

from typing import Any, ClassVar, Literal

from hubgate.proxy.fields.content import Audio, JsonObject, PlainText
from hubgate.proxy.fields.sampling import BASIC, SWITCHES
from hubgate.proxy.fields.shapes import (
    CACHED,
    ECHOED,
    GRAMMAR,
    TOOLS,
    Calls,
    DataUrl,
    Drops,
    Effort,
    Items,
    Json,
    Metadata,
    Natural,
    Nothing,
    Parts,
    Positive,
    Shape,
    Tagged,
    Tier,
    Tools,
)
from hubgate.proxy.fields.table import MustBeFalse, Table, field, refused
from hubgate.proxy.fields.unsupported import BACKGROUND, DOCUMENTS, ELSEWHERE, ENGINE, GUIDED

_Status = Literal["in_progress", "completed", "incomplete"] | None


# `file_id` is no key of any part: there are no stored files.
class InputText(Tagged, tag="input_text"):
    DROPPED: ClassVar[Drops] = CACHED

    text: str


class InputImage(Tagged, tag="input_image"):
    DROPPED: ClassVar[Drops] = CACHED

    image_url: DataUrl
    detail: str | None = None


class InputAudio(Tagged, tag="input_audio"):
    DROPPED: ClassVar[Drops] = CACHED

    input_audio: Audio


class OutputText(Tagged, tag="output_text"):
    DROPPED: ClassVar[Drops] = {
        **CACHED,
        "parsed": "OpenAI's SDK, of `parse()`: the text once more",
        "annotations": "OpenAI's, of a search that its server did",
    }

    text: str
    annotations: Nothing = None
    logprobs: list[Any] | None = None


class Refusal(Tagged, tag="refusal"):
    refusal: str


_Part = InputText | InputImage | InputAudio | OutputText | Refusal


class Message(Tagged, tag="message"):
    DROPPED: ClassVar[Drops] = ECHOED

    role: Literal["user", "assistant", "system", "developer"]
    content: str | Parts[_Part]
    id: str | None = None
    status: _Status = None
    phase: str | None = None


class FunctionCall(Tagged, tag="function_call"):
    DROPPED: ClassVar[Drops] = {
        **ECHOED,
        "parsed_arguments": "OpenAI's SDK, of `parse()`: the arguments once more",
        "caller": "OpenAI's: that the model itself made the call",
    }

    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: _Status = None
    namespace: str | None = None
    caller: None = None


class FunctionCallOutput(Tagged, tag="function_call_output"):
    DROPPED: ClassVar[Drops] = {**ECHOED, "caller": "OpenAI's: that the model itself made the call"}

    call_id: str
    output: str | Parts[InputText | InputImage]
    id: str | None = None
    status: _Status = None
    name: str | None = None


class SummaryText(Shape):
    type: Literal["summary_text"]
    text: str


class ReasoningText(Shape):
    type: Literal["reasoning_text"]
    text: str


class Reasoned(Tagged, tag="reasoning"):
    summary: Parts[SummaryText]
    content: Parts[ReasoningText] | None = None
    encrypted_content: str | None = None
    id: str | None = None
    status: _Status = None


Item = Message | FunctionCall | FunctionCallOutput | Reasoned


_FUNCTION: Drops = {
    **CACHED,
    "defer_loading": "OpenAI's search among tools; the engine knows all of them",
    "allowed_callers": "OpenAI's calls by code; here the model itself calls",
    "output_schema": "OpenAI's; the engine reads none",
    "async": "OpenAI's; whoever calls a function waits for it as they like",
}


class Function(Tagged, tag="function"):
    DROPPED: ClassVar[Drops] = _FUNCTION

    name: str
    parameters: Json | None = None
    strict: bool | None = None
    description: str | None = None


class Namespace(Tagged, tag="namespace"):
    """Functions under a common name: for the model, the engine makes `namespace__name` of each."""

    name: str
    description: str
    tools: Calls[Function]


class FunctionChoice(Shape):
    type: Literal["function"]
    name: str


class Reasoning(Shape):
    DROPPED: ClassVar[Drops] = {
        "context": "OpenAI's; what of earlier reasoning is shown is the template's decision",
        "mode": "OpenAI's; an engine has one",
    }

    effort: Effort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class JsonSchema(Tagged, tag="json_schema"):
    name: str
    schema: Json
    description: str | None = None
    strict: bool | None = None


class Text(Shape):
    format: PlainText | JsonObject | JsonSchema | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


def _with_types(items: Any) -> Any:
    """An item without a `type` is a message (OpenAI's `EasyInputMessage`)."""
    if not isinstance(items, list):
        return items
    return [{"type": "message", **item} if isinstance(item, dict) else item for item in items]


# Without it the model has no search, and does not ask for one: Codex CLI offers it with every request.
_UNSEARCHED = "OpenAI's server would search; the engine fetches nothing, and the model is not told of it"
_SEARCH: Drops = dict.fromkeys(
    (
        "web_search",
        "web_search_2025_08_26",
        "web_search_preview",
        "web_search_preview_2025_03_11",
    ),
    _UNSEARCHED,
)
_STORED = "responses are not stored here; send the earlier turns in `input`"

RESPONSES = Table(
    *BASIC,
    field(
        "input",
        str | Items[Item],
        "OpenAI; walked: known items and keys, media inside",
        required=True,
        normalize=_with_types,
    ),
    field("instructions", str, "OpenAI"),
    field("max_output_tokens", Positive, "OpenAI; more than the context holds is 400, by the engine"),
    field("max_tool_calls", Positive, "OpenAI; of no effect without server tools"),
    field(
        "include",
        list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]],
        "OpenAI; the others belong to server tools",
    ),
    field("top_logprobs", Natural, "OpenAI; -1 would be the whole vocabulary", cap="max_logprobs"),
    field(
        "tools",
        Tools[Function | Namespace],
        "OpenAI; functions only: server tools would fetch",
        max_bytes=TOOLS,
        left_out=_SEARCH,
        hint="Tools are functions, which the client runs itself; switch others off in the client "
        '(Codex CLI: web_search = "disabled", features.image_generation = false).',
    ),
    field("tool_choice", Literal["none", "auto", "required"] | FunctionChoice, "OpenAI"),
    field("parallel_tool_calls", bool, "OpenAI"),
    field("text", Text, "OpenAI; a schema is compiled, so it is bounded", max_bytes=GRAMMAR),
    field("reasoning", Reasoning, "OpenAI"),
    field("include_reasoning", bool, "vLLM; leaves reasoning out of the answer"),
    field("truncation", Literal["auto", "disabled"], "OpenAI; makes a prompt shorter"),
    field("metadata", Metadata, "OpenAI; given back in the answer"),
    field("service_tier", Tier, "OpenAI; given back in the answer"),
    field("store", MustBeFalse, "OpenAI; sent on as false whatever the caller leaves out"),
    field("background", MustBeFalse, "OpenAI; a response in the background would have to be stored"),
    # Whether such a response exists is not looked up, so both read the same (docs/threats.md, row 35).
    refused("previous_response_id", _STORED, code="unknown_endpoint"),
    refused("conversation", _STORED),
    refused("previous_input_messages", "send the earlier turns in `input`"),
    refused("enable_response_messages", "it shows the engine's own view of a prompt", harmless=(False,)),
    refused("prompt", "prompts are not stored here; send `instructions` and `input`"),
    refused("background_options", BACKGROUND.reason),
    refused("context_management", "the engine does not compact"),
    refused("image", "the engine writes text only"),
    refused("moderation", "the engine does not moderate"),
    refused("access_programs", "it belongs to OpenAI's platform"),
    refused("n", "a response is one", harmless=(1,)),
    refused("best_of", "a response is one", harmless=(1,)),
    refused("echo", "the input is known", harmless=(False,)),
    SWITCHES,
    *ELSEWHERE,
    *GUIDED,
    *ENGINE,
    DOCUMENTS,
)
