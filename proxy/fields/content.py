"""What a chat message may hold: known roles, parts and keys, and media inside the request."""

from typing import Any, ClassVar, Literal

from hubgate.proxy.fields.shapes import (
    CACHED,
    ECHOED,
    Calls,
    DataUrl,
    Drops,
    Json,
    Nothing,
    Parts,
    Shape,
    Tagged,
)


class MediaUrl(Shape):
    DROPPED: ClassVar[Drops] = {"format": "LiteLLM's; the media's type is in the data: URL"}

    url: DataUrl
    detail: str | None = None


class Audio(Shape):
    data: str
    format: str


# `uuid` is no key of any part: it would stand in for the media's own hash in a cache that others share
# (vllm/renderers/chat_utils.py). Embeddings as parts are unpickled by the engine and are not listed.
class Text(Tagged, tag="text"):
    DROPPED: ClassVar[Drops] = {
        **CACHED,
        "annotations": "OpenAI's, of a search that its server did",
        "parsed": "OpenAI's SDK, of `parse()`",
    }

    text: str


class Refusal(Tagged, tag="refusal"):
    DROPPED: ClassVar[Drops] = CACHED

    refusal: str


class ImageUrl(Tagged, tag="image_url"):
    DROPPED: ClassVar[Drops] = CACHED

    image_url: MediaUrl


class VideoUrl(Tagged, tag="video_url"):
    DROPPED: ClassVar[Drops] = CACHED

    video_url: MediaUrl


class AudioUrl(Tagged, tag="audio_url"):
    DROPPED: ClassVar[Drops] = CACHED

    audio_url: MediaUrl


class InputAudio(Tagged, tag="input_audio"):
    DROPPED: ClassVar[Drops] = CACHED

    input_audio: Audio


Part = Text | Refusal | ImageUrl | VideoUrl | AudioUrl | InputAudio


class Called(Shape):
    DROPPED: ClassVar[Drops] = {
        **ECHOED,
        "parsed_arguments": "OpenAI's SDK, of `parse()` and `stream()`: the arguments once more",
    }

    name: str
    arguments: str


class ToolCall(Shape):
    DROPPED: ClassVar[Drops] = {
        **CACHED,
        **ECHOED,
        "caller": "Anthropic's, by way of other gateways: who made the call",
        "thought_signature": "Gemini's, by way of other gateways",
    }

    function: Called
    id: str | None = None
    type: Literal["function"] | None = None
    index: int | None = None  # left over where a client put a streamed call together


class Message(Shape):
    """A message of any role. The last three are empty in the engine's answers, which clients send back."""

    DROPPED: ClassVar[Drops] = {
        **CACHED,
        **ECHOED,
        "parsed": "OpenAI's SDK, of `parse()` and `stream()`: the content once more",
        "annotations": "OpenAI's, of a search that its server did",
        "thinking_blocks": "LiteLLM's copy of `reasoning_content`, signed by another provider",
        "reasoning_details": "OpenRouter's copy of `reasoning`, signed by another provider",
        "reasoning_items": "LiteLLM's copy of reasoning, encrypted by another provider",
        "reasoning_opaque": "Copilot's copy of reasoning, encrypted by another provider",
    }

    role: str
    content: str | Parts[Part] | None = None
    name: str | None = None
    tool_calls: Calls[ToolCall] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    annotations: Nothing = None
    audio: None = None
    function_call: None = None


class Function(Shape):
    DROPPED: ClassVar[Drops] = CACHED

    name: str
    description: str | None = None
    parameters: Json | None = None
    strict: bool | None = None


class Tool(Shape):
    DROPPED: ClassVar[Drops] = CACHED

    function: Function
    type: Literal["function"]


class Named(Shape):
    name: str


class ToolChoice(Shape):
    function: Named
    type: Literal["function"]


class PlainText(Tagged, tag="text"):
    pass


class JsonObject(Tagged, tag="json_object"):
    pass


class Schema(Shape):
    name: str
    description: str | None = None
    schema: Json | None = None
    strict: bool | None = None


class JsonSchema(Tagged, tag="json_schema"):
    json_schema: Schema


ResponseFormat = PlainText | JsonObject | JsonSchema


class Prediction(Shape):
    type: Literal["content"]
    content: str | Parts[Text]


Prompts = str | list[str | int | list[int]]
Texts = str | list[str]


def schema_as_openai(body: dict[str, Any]) -> bool:
    """Turn huggingface_hub's `response_format` into OpenAI's: `{"type": "json_object", "value": schema}`.

    That is how its InferenceClient writes `json_schema` for text-generation-inference, and `json` is how that
    server names it. What comes out is checked as if the caller had written it.
    """
    asked = body.get("response_format")
    if not isinstance(asked, dict) or asked.keys() != {"type", "value"}:
        return False
    kind, schema = asked["type"], asked["value"]
    if kind not in ("json_object", "json") or not isinstance(schema, dict):
        return False
    body["response_format"] = {"type": "json_schema", "json_schema": {"name": "value", "schema": schema}}
    return True
