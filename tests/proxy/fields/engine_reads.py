"""Reads bodies from its input, a path and a body a line, by vLLM's own request models; writes what they mind.

A program of its own, since importing vLLM takes ten seconds and much memory.
"""

import json
import sys
from typing import Any

from pydantic import TypeAdapter, ValidationError
from vllm.entrypoints.anthropic.protocol import AnthropicCountTokensRequest, AnthropicMessagesRequest
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.entrypoints.serve.tokenize.protocol import TokenizeRequest

MODELS: dict[str, Any] = {
    "/v1/chat/completions": ChatCompletionRequest,
    "/v1/completions": CompletionRequest,
    "/v1/responses": ResponsesRequest,
    "/v1/messages": AnthropicMessagesRequest,
    "/v1/messages/count_tokens": AnthropicCountTokensRequest,
    "/tokenize": TokenizeRequest,
}


def main() -> None:
    """One line of JSON for each body: what is wrong with it, or nothing; and which fields nobody knows."""
    for line in sys.stdin:
        path, body = json.loads(line)
        fault, extra = "", list[str]()
        try:
            read = TypeAdapter(MODELS[path]).validate_python(body)
            extra = sorted(read.model_extra or {})
        except (ValidationError, ValueError) as error:
            fault = str(error)
        sys.stdout.write(json.dumps([fault, extra]) + "\n")


if __name__ == "__main__":
    main()
