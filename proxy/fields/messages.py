"""`/v1/messages` and `/v1/messages/count_tokens`: Anthropic's reference and vLLM's request models."""

from typing import ClassVar, Literal

from hubgate.proxy.fields.sampling import SWITCHES
from hubgate.proxy.fields.shapes import (
    ASIDE,
    CACHED,
    ECHOED,
    GRAMMAR,
    TOOLS,
    Drops,
    Json,
    Messages,
    Nothing,
    Parts,
    Positive,
    Shape,
    Stops,
    Tagged,
    Tools,
)
from hubgate.proxy.fields.table import Refused, Table, dropped, field, refused
from hubgate.proxy.fields.unsupported import BACKGROUND, DOCUMENTS, ENGINE


class CacheControl(Shape):
    """Sent by every agent and ignored by the engine, which caches by itself."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class Base64(Shape):
    """The one source of an image: a `url` would make the engine fetch, and no files are stored here."""

    type: Literal["base64"]
    media_type: Literal["image/jpeg", "image/png", "image/gif", "image/webp"]
    data: str


# `cache_control` in another form than is known here is no reason to refuse it.
_BLOCK: Drops = {**CACHED, **ECHOED}


class Text(Tagged, tag="text"):
    DROPPED: ClassVar[Drops] = {
        **_BLOCK,
        "citations": "Anthropic's, of a search that its server did",
        "parsed_output": "Anthropic's SDK, of `parse()`: the text once more",
    }

    text: str
    citations: Nothing = None
    cache_control: CacheControl | None = None


class Image(Tagged, tag="image"):
    DROPPED: ClassVar[Drops] = _BLOCK

    source: Base64
    cache_control: CacheControl | None = None


class ToolUse(Tagged, tag="tool_use"):
    DROPPED: ClassVar[Drops] = {**_BLOCK, "caller": "Anthropic's: that the model itself made the call"}

    id: str
    name: str
    input: Json
    cache_control: CacheControl | None = None


class ToolResult(Tagged, tag="tool_result"):
    DROPPED: ClassVar[Drops] = _BLOCK

    tool_use_id: str
    content: str | Parts[Text | Image] | None = None
    is_error: bool | None = None
    cache_control: CacheControl | None = None


class Thought(Tagged, tag="thinking"):
    DROPPED: ClassVar[Drops] = _BLOCK

    thinking: str
    signature: str | None = None


class RedactedThought(Tagged, tag="redacted_thinking"):
    DROPPED: ClassVar[Drops] = _BLOCK

    data: str


class Message(Shape):
    DROPPED: ClassVar[Drops] = _BLOCK

    role: Literal["user", "assistant", "system"]
    content: str | Parts[Text | Image | ToolUse | ToolResult | Thought | RedactedThought]


class Tool(Shape):
    """A tool that the caller runs; `type` names Anthropic's server tools, which would fetch or run code."""

    DROPPED: ClassVar[Drops] = {
        **_BLOCK,
        "defer_loading": "Anthropic's search among tools; the engine knows all of them",
        "allowed_callers": "Anthropic's calls by code; here the model itself calls",
    }

    name: str
    input_schema: Json
    type: Literal["custom"] | None = None
    description: str | None = None
    strict: bool | None = None
    input_examples: list[Json] | None = None
    eager_input_streaming: bool | None = None
    cache_control: CacheControl | None = None


class ToolChoice(Shape):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Shape):
    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Positive | None = None
    display: Literal["summarized", "omitted", "updates"] | None = None


class JsonSchema(Shape):
    type: Literal["json_schema"]
    schema: Json


class OutputConfig(Shape):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: JsonSchema | None = None


class Metadata(Shape):
    user_id: str | None = None


_COMMON = (
    field("model", str, "what is authorized, and sent on under its pinned name", required=True),
    field("messages", Messages[Message], "Anthropic; walked: known blocks, images inside", required=True),
    field("system", str | Parts[Text], "Anthropic"),
    field(
        "tools",
        Tools[Tool],
        "Anthropic; the caller's own: server tools would fetch",
        max_bytes=TOOLS,
        hint="Tools are those that the client runs itself; Anthropic's server tools are not run here "
        "(Claude Code: --disallowedTools WebSearch).",
    ),
    field("tool_choice", ToolChoice, "Anthropic"),
    field("thinking", Thinking, "Anthropic"),
    field(
        "output_config", OutputConfig, "Anthropic; a schema is compiled, so it is bounded", max_bytes=GRAMMAR
    ),
    field("cache_control", CacheControl, "Anthropic; ignored"),
    SWITCHES,
    dropped("client_metadata", "Codex CLI; its installation's id, of no use to an engine"),
    field("context_management", Json, "Anthropic; agents send it, the engine ignores it", max_bytes=ASIDE),
)
_PLATFORM: tuple[Refused, ...] = (
    refused("mcp_servers", "the engine connects to nothing", harmless=([],)),
    refused("container", "the engine runs no code"),
    *(
        refused(name, "it belongs to Anthropic's platform")
        for name in (
            "betas",
            "billing_policy",
            "compaction",
            "diagnostics",
            "fallback_credit_token",
            "fallbacks",
            "inference_geo",
            "speed",
            "thread",
            "user_profile_id",
            "workspace_id",
        )
    ),
    *ENGINE,
    DOCUMENTS,
    BACKGROUND,
)

MESSAGES = Table(
    *_COMMON,
    field(
        "max_tokens", Positive, "Anthropic; more than the context holds is 400, by the engine", required=True
    ),
    field("stream", bool, "Anthropic"),
    field("temperature", float, "Anthropic"),
    field("top_p", float, "Anthropic"),
    field("top_k", int, "Anthropic"),
    field("stop_sequences", Stops, "Anthropic; searched at every step, so four at most"),
    field("metadata", Metadata, "Anthropic; ignored"),
    field("service_tier", Literal["auto", "standard_only"], "Anthropic; ignored"),
    *_PLATFORM,
)
COUNT_TOKENS = Table(*_COMMON, *_PLATFORM)
