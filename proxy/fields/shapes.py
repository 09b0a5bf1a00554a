"""The shapes of values that several tables share: numbers, texts, and objects with known keys only."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from msgspec import Meta, Struct

T = TypeVar("T")


Drops = Mapping[str, str]  # keys with the reason why they are not sent on


class Shape(Struct, forbid_unknown_fields=True):
    """An object of which every key is named: here, or in `DROPPED` if it is not sent on."""

    DROPPED: ClassVar[Drops] = {}


class Tagged(Shape, tag_field="type"):
    """One of several objects, told apart by their `type`. Alone, msgspec would not ask for it."""


# What the engine counts in: 64 bits with a sign.
INT64_MAX = 2**63 - 1
Positive = Annotated[int, Meta(ge=1, le=INT64_MAX)]
Natural = Annotated[int, Meta(ge=0, le=INT64_MAX)]
Truncation = Annotated[int, Meta(ge=-1, le=INT64_MAX)]  # -1: as much as the model can take

Token = Annotated[int, Meta(ge=0, le=INT64_MAX)]
Json = dict[str, Any]  # free JSON: a schema, arguments; its row bounds its size
Nothing = Annotated[list[Any], Meta(max_length=0)] | None  # what our own engine answers, and clients echo

# OpenAI's limit, and the engine's (vllm/envs.py, VLLM_MAX_STOP_STRINGS).
Stops = Annotated[list[str], Meta(max_length=4)]
# Sixteen pairs of short texts: OpenAI's limits.
Metadata = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]], Meta(max_length=16)
]

# Engines fetch nothing.
DataUrl = Annotated[str, Meta(pattern=r"^data:")]

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Tier = Literal["auto", "default", "flex", "scale", "priority"]

# How many of them a request may carry. The engine's one API process makes objects of each, about a tenth of a
# millisecond for a message, before any limit of its own counts. Long sessions of agents have some hundreds of
# messages; agents with many MCP servers, two hundred tools.
Messages = Annotated[list[T], Meta(max_length=4096)]
Items = Annotated[list[T], Meta(max_length=2048)]  # of /v1/responses, which take twice as long
Parts = Annotated[list[T], Meta(max_length=1024)]  # of one message
Calls = Annotated[list[T], Meta(max_length=256)]  # of tools, in one message
Tools = Annotated[list[T], Meta(max_length=512)]
Ids = Annotated[list[Token], Meta(max_length=49152)]  # of tokens that become text again; all are parsed

# Bytes of JSON, far above what people send, that keep what the engine compiles and renders in bounds.
GRAMMAR = 64 * 1024  # schemas and grammars: compiled on the CPU, at a cost that grows faster than their size
TOOLS = 512 * 1024  # tool definitions: rendered into the prompt, and compiled where a call is forced
ASIDE = 16 * 1024  # what the engine ignores

# What others put beside the keys of an object, and no engine reads.
CACHED = {"cache_control": "Anthropic's and LiteLLM's mark for a cache; engines cache by themselves"}
ECHOED = {
    "provider_specific_fields": "LiteLLM's copy of what it does not know; it sends it back with each turn",
    "extra_content": "what Gemini's compatible endpoint adds, a thought's signature",
}
