"""Items of a response and blocks of an Anthropic message: known kinds and keys only, media inside."""

import json
from typing import Any

from hubgate.proxy.body import json_request
from hubgate.proxy.endpoints import ENDPOINTS
from hubgate.proxy.errors import Denied
from hubgate.proxy.settings import Request
from tests.cases import each

DATA = "data:image/png;base64,AAAA"
INSIDE = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
ELSEWHERE = {"type": "url", "url": "http://169.254.169.254/"}


def refused(path: str, name: str, **fields: Any) -> bool:
    """Whether a body is refused, as a bad request that names this field and says where the fault is."""
    raw = json.dumps({"model": "a/b", **fields}).encode()
    found = json_request.parse(ENDPOINTS[path], raw, Request())
    if not isinstance(found, Denied):
        return False
    assert (found.code, found.param) == ("invalid_request", name)
    assert found.message.startswith(f"`{name}")
    return True


def item_refused(item: Any) -> bool:
    return refused("/v1/responses", "input", input=[{"role": "user", "content": "hi"}, item])


def part_refused(part: Any) -> bool:
    return item_refused({"role": "user", "content": [{"type": "input_text", "text": "hi"}, part]})


def block_refused(block: Any) -> bool:
    blocks = [{"type": "text", "text": "hi"}, block]
    fields: dict[str, Any] = {"messages": [{"role": "user", "content": blocks}]}
    counted = refused("/v1/messages/count_tokens", "messages", **fields)
    assert refused("/v1/messages", "messages", **fields, max_tokens=1) is counted
    return counted


@each(
    "item",
    [
        {"role": "user", "content": "hi"},
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "hi"}]},
        {"role": "assistant", "content": "hi"},
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "x", "annotations": [], "logprobs": None}],
        },
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "id": "fc", "status": None},
        {"type": "function_call_output", "call_id": "c", "output": "ok"},
        {
            "type": "function_call_output",
            "call_id": "c",
            "output": [{"type": "input_image", "image_url": DATA}],
        },
        {
            "type": "reasoning",
            "id": "rs",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "x"}],
        },
    ],
)
def test_items_that_a_conversation_is_made_of(item: Any) -> None:
    """Messages, function calls with their results, and reasoning pass, as the SDK sends them back."""
    assert not item_refused(item)


@each(
    "item",
    [
        "hi",
        None,
        5,
        [],
        {},
        {"role": "user"},
        {"role": "robot", "content": "hi"},
        {"role": "user", "content": 5},
        {"role": "user", "content": "hi", "uuid": "1"},
        {"type": "item_reference", "id": "msg_someone-elses"},
        {"type": "computer_call_output", "call_id": "c", "output": {"type": "x", "image_url": "http://x"}},
        {"type": "mcp_call", "id": "m", "name": "f", "server_label": "s", "arguments": "{}"},
        {"type": "mcp_approval_response", "approval_request_id": "x", "approve": True},
        {"type": "code_interpreter_call", "id": "x"},
        {"type": "web_search_call", "id": "x", "status": "completed"},
        {"type": "file_search_call", "id": "x"},
        {"type": "image_generation_call", "id": "x"},
        {"type": "custom_tool_call", "call_id": "c", "name": "f", "input": "x"},
        {"type": "additional_tools", "role": "developer", "tools": [{"type": "mcp"}]},
        {"type": ["message"], "role": "user", "content": "hi"},
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_file", "file_id": "x"}]},
        {
            "type": "function_call_output",
            "call_id": "c",
            "output": [{"type": "input_image", "image_url": "http://x"}],
        },
        {"role": "assistant", "content": [{"type": "output_text", "text": "x", "annotation": []}]},
    ],
)
def test_other_items_are_refused(item: Any) -> None:
    """References, server tools' calls, unknown keys and wrong shapes are refused."""
    assert item_refused(item)


@each(
    "part",
    [
        {"type": "input_file", "file_id": "f"},
        {"type": "input_file", "file_url": "http://x"},
        {"type": "input_file", "file_data": DATA},
        {"type": "input_image", "file_id": "f"},
        {"type": "input_image", "image_url": "http://169.254.169.254/"},
        {"type": "input_image", "image_url": "file:///etc/passwd"},
        {"type": "input_image", "image_url": {"url": "http://x"}},
        {"type": "input_image", "image_url": DATA, "uuid": "someone-elses"},
        {"type": "input_text", "text": "hi", "uuid": "1"},
        {"type": "image_url", "image_url": {"url": DATA}},
        {"type": "text", "text": "hi"},
        {"text": "hi"},
        {"type": "image_embeds", "image_embeds": "AAAA"},
        {"type": "prompt_embeds", "data": "AAAA"},
    ],
)
def test_parts_of_items(part: Any) -> None:
    """Files, media from elsewhere and unknown parts are refused inside an item."""
    assert part_refused(part)
    assert not part_refused({"type": "input_image", "image_url": DATA, "detail": "auto"})


@each(
    "kind",
    [
        "mcp",
        "file_search",
        "code_interpreter",
        "computer",
        "computer_use_preview",
        "image_generation",
        "local_shell",
        "shell",
        "apply_patch",
        "custom",
        "namespace",
        "tool_search",
    ],
)
def test_tools_of_responses_are_functions(kind: str) -> None:
    """A tool that somebody else than the caller would run is refused."""
    tool = {"type": kind, "name": "x", "server_url": "http://169.254.169.254/", "server_label": "x"}
    assert refused("/v1/responses", "tools", input="x", tools=[tool])
    function: Any = {"type": "function", "name": "f", "parameters": {}, "strict": True}
    assert not refused("/v1/responses", "tools", input="x", tools=[function])
    del function["type"]
    assert refused("/v1/responses", "tools", input="x", tools=[function])


@each(
    "block",
    [
        {"type": "text", "text": "hi", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        {"type": "text", "text": "hi", "citations": None},
        {"type": "image", "source": INSIDE},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"any": ["json"]}},
        {"type": "tool_result", "tool_use_id": "t"},
        {"type": "tool_result", "tool_use_id": "t", "content": "ok", "is_error": True},
        {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "image", "source": INSIDE}]},
        {"type": "thinking", "thinking": "x", "signature": "y"},
        {"type": "redacted_thinking", "data": "x"},
    ],
)
def test_blocks_of_a_conversation(block: Any) -> None:
    """Text, images inside the request, tool calls with their results, and thinking pass."""
    assert not block_refused(block)


@each(
    "block",
    [
        "hi",
        None,
        {},
        {"text": "hi"},
        {"type": "text", "text": "hi", "uuid": "1"},
        {"type": "text", "text": "hi", "source": ELSEWHERE},
        {"type": "text", "text": "hi", "citation": []},
        {"type": "image", "source": ELSEWHERE},
        {"type": "image", "source": {"type": "file", "file_id": "f"}},
        {"type": "image", "source": {"media_type": "image/png", "data": "AAAA"}},
        {"type": "image", "source": {**INSIDE, "url": "http://x"}},
        {"type": "image", "source": {**INSIDE, "media_type": "x,y"}},
        {"type": "document", "source": ELSEWHERE},
        {"type": "container_upload", "file_id": "f"},
        {"type": "server_tool_use", "id": "t", "name": "web_search", "input": {}},
        {"type": "web_search_tool_result", "tool_use_id": "t", "content": []},
        {"type": "mcp_tool_use", "id": "t", "name": "f", "server_name": "s", "input": {}},
        {"type": "tool_addition", "tool": {"type": "tool_reference", "name": "f"}},
        {"type": "tool_reference", "tool_name": "f"},
        {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "image", "source": ELSEWHERE}]},
        {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "document", "source": ELSEWHERE}]},
        {"type": "tool_result", "tool_use_id": "t", "content": [{"image_url": "http://x"}]},
        {"type": "image_url", "image_url": {"url": "http://x"}},
    ],
)
def test_other_blocks_are_refused(block: Any) -> None:
    """What would be fetched, is stored elsewhere or is unknown is refused, nested or not, counted or not."""
    assert block_refused(block)


@each("kind", ["web_search_20260209", "code_execution_20260120", "bash_20250124", "computer_20251124", "mcp"])
def test_tools_of_messages_are_the_callers(kind: str) -> None:
    """Anthropic's server tools are refused by their type."""
    fields: dict[str, Any] = {"messages": [], "max_tokens": 1}
    tool = {"name": "f", "input_schema": {"type": "object"}}
    assert not refused("/v1/messages", "tools", **fields, tools=[tool, {**tool, "type": "custom"}])
    assert refused("/v1/messages", "tools", **fields, tools=[tool, {**tool, "type": kind}])


@each(
    "text", [{"content": [{"type": "text", "text": "x"}]}, {"text": "x"}, 5, [["x"]], [{"content": []}], [1]]
)
@each(("path", "name"), [("/v1/rerank", "documents"), ("/v1/score", "text_2"), ("/v1/rerank", "query")])
def test_scores_are_of_texts(path: str, name: str, text: Any) -> None:
    """Multi-modal forms are refused: what is not text is not walked, so it is not passed on."""
    fields = {"query": "x", "documents": ["x"]} if path == "/v1/rerank" else {"text_1": "x", "text_2": "x"}
    assert not refused(path, name, **fields)
    assert refused(path, name, **{**fields, name: text})


@each("messages", [[{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]])
def test_tokenize_walks_messages_as_chat_does(messages: Any) -> None:
    """The rules of chat hold where a conversation is only counted."""
    assert refused("/tokenize", "messages", messages=messages)
    assert not refused("/tokenize", "messages", messages=[{"role": "user", "content": "x"}])
