"""What a chat message may hold: known roles, parts and keys, and media inside the request."""

from typing import Literal

from hubgate.proxy.fields.shapes import Calls, DataUrl, Json, Nothing, Parts, Shape, Tagged


class MediaUrl(Shape):
    url: DataUrl
    detail: str | None = None


class Audio(Shape):
    data: str
    format: str


# `uuid` is no key of any part: it would stand in for the media's own hash in a cache that others share
# (vllm/renderers/chat_utils.py). Embeddings as parts are unpickled by the engine and are not listed.
class Text(Tagged, tag="text"):
    text: str


class Refusal(Tagged, tag="refusal"):
    refusal: str


class ImageUrl(Tagged, tag="image_url"):
    image_url: MediaUrl


class VideoUrl(Tagged, tag="video_url"):
    video_url: MediaUrl


class AudioUrl(Tagged, tag="audio_url"):
    audio_url: MediaUrl


class InputAudio(Tagged, tag="input_audio"):
    input_audio: Audio


Part = Text | Refusal | ImageUrl | VideoUrl | AudioUrl | InputAudio


class Called(Shape):
    name: str
    arguments: str


class ToolCall(Shape):
    function: Called
    id: str | None = None
    type: Literal["function"] | None = None
    index: int | None = None  # left over where a client put a streamed call together


class Message(Shape):
    """A message of any role. The last three are empty in the engine's answers, which clients send back."""

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
    name: str
    description: str | None = None
    parameters: Json | None = None
    strict: bool | None = None


class Tool(Shape):
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
