"""What is read of an engine's answers, as msgspec decodes it."""

from typing import Annotated, Any

import msgspec

Tokens = Annotated[int, msgspec.Meta(ge=0)]


class Usage(msgspec.Struct, frozen=True):
    """Tokens of one answer; OpenAI's names for them, or those of Anthropic and of the Responses API."""

    prompt_tokens: Tokens = 0
    completion_tokens: Tokens | None = 0
    input_tokens: Tokens = 0
    output_tokens: Tokens = 0


class Metered(msgspec.Struct):
    """Whatever tells a usage."""

    usage: Usage | None = None


class Body(Metered):
    """A whole answer, or an event that is one."""

    response: Metered | None = None  # of `response.completed`
    count: Tokens | None = None  # of a text that was tokenized (vllm/entrypoints/serve/tokenize/protocol.py)
    input_tokens: Tokens | None = None  # of a conversation that was counted (Anthropic's `count_tokens`)


class Chunk(Body):
    """An event of a stream; without choices it is there for its usage alone."""

    choices: list[msgspec.Raw] | None = None


class Fault(msgspec.Struct):
    """What an engine says of its refusal."""

    message: str = ""
    code: Any = None  # vLLM's are numbers


class Refusal(msgspec.Struct):
    """The body of an answer that is no 200; FastAPI's own 404 has no `error`: there is no such route."""

    error: Fault | None = None
