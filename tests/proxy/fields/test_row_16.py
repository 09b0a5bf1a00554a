"""threats.md, row 16, through the real HTTP stack: refused fields and values are 400, and nothing goes up."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.cases import each
from tests.fakes.dialects import every_route
from tests.fakes.running_proxy import BASE, Edge
from tests.proxy.fields.test_tables import LEAST, TABLES

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT, PLAIN, RESPONSES, CLAUDE = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"
EMBED, RERANK, SCORE, TOKENIZE = "/v1/embeddings", "/v1/rerank", "/v1/score", "/tokenize"
COUNT, DETOKENIZE = "/v1/messages/count_tokens", "/detokenize"
META = "http://169.254.169.254/"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def edge(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    """One proxy for all of them: what is refused leaves nothing behind."""
    limits = {"requests_per_minute": 100_000}
    async with Edge.start(tmp_path_factory.mktemp("edge"), {"limits": limits}) as running:
        running.engine.always(every_route())
        yield running


async def refused(edge: Edge, path: str, fields: dict[str, Any], status: int, param: str) -> None:
    """The body is refused under this name, in the route's dialect, and nobody else hears of it."""
    seen = len(edge.engine.requests), len(edge.backend.asked)
    answer = await edge.post(path, {"model": BASE, **LEAST[path], **fields})
    code = "invalid_request" if status == 400 else "unknown_endpoint"
    assert (answer.status, answer.code) == (status, code)
    assert param in answer.json()["error"]["message"]
    if path not in (CLAUDE, COUNT):
        assert answer.json()["error"]["param"] == param
    assert (len(edge.engine.requests), len(edge.backend.asked)) == seen


@each(("path", "name"), [(path, name) for path in sorted(LEAST) for name in sorted(TABLES[path].refused)])
async def test_every_refused_row(edge: Edge, path: str, name: str) -> None:
    """Each row that is left out on purpose, on each endpoint."""
    status = 404 if name == "previous_response_id" else 400
    await refused(edge, path, {name: "x"}, status, name)


@each("path", sorted(LEAST))
async def test_a_field_that_nobody_knows(edge: Edge, path: str) -> None:
    """A field that is on no list."""
    await refused(edge, path, {"anything_else": 1}, 400, "anything_else")


def user(part: Any) -> list[Any]:
    """A conversation of one message with this part."""
    return [{"role": "user", "content": [part]}]


@each(
    ("path", "name", "value"),
    [
        (CHAT, "n", 9),
        (PLAIN, "n", 9),
        (PLAIN, "best_of", 9),
        (CHAT, "top_logprobs", 21),
        (CHAT, "top_logprobs", -1),
        (PLAIN, "logprobs", 21),
        (PLAIN, "logprobs", 10**6),
        (RESPONSES, "top_logprobs", 21),
        (CHAT, "prompt_logprobs", 1),
        (PLAIN, "prompt_logprobs", 0),
        (CHAT, "max_tokens", 0),
        (CHAT, "max_tokens", 2**63),
        (CLAUDE, "max_tokens", 0),
        (RESPONSES, "max_output_tokens", -1),
        (PLAIN, "prompt", ["x"] * 9),
        (EMBED, "input", ["x"] * 2049),
        (RERANK, "documents", ["x"] * 2049),
        (SCORE, "text_2", ["x"] * 2049),
        (CHAT, "stop", ["x"] * 5),
        (CLAUDE, "stop_sequences", ["x"] * 5),
        (CHAT, "structured_outputs", {"json_object": False}),
        (CHAT, "structured_outputs", {"json": ""}),
        (CHAT, "structured_outputs", {"regex": ""}),
        (CHAT, "structured_outputs", {"grammar": ""}),
        (CHAT, "structured_outputs", {"choice": []}),
        (CHAT, "structured_outputs", {"choice": [str(number) for number in range(257)]}),
        (CHAT, "stop_token_ids", [1] * 129),
        (CHAT, "logit_bias", {str(i): 1 for i in range(1025)}),
        (CHAT, "logit_bias", {"x": 1}),
        (CHAT, "logit_bias", {"1": 101}),
        (CHAT, "metadata", {str(i): "x" for i in range(17)}),
        (CHAT, "metadata", {"a": "x" * 513}),
        (CHAT, "metadata", {"a": {}}),
        (CHAT, "echo", True),
        (CHAT, "chat_template_kwargs", {"chat_template": "{{ x }}"}),
        (CHAT, "chat_template_kwargs", {"tools": "x"}),
        (CHAT, "chat_template_kwargs", {"a": []}),
        (PLAIN, "chat_template_kwargs", {"enable_thinking": False}),
        (CHAT, "web_search_options", {}),
        (RESPONSES, "store", True),
        (RESPONSES, "background", True),
        (RESPONSES, "include", ["file_search_call.results"]),
        (RESPONSES, "tools", [{"type": "mcp", "server_url": META, "server_label": "x"}]),
        (RESPONSES, "tools", [{"type": "web_search_call"}]),
        (RESPONSES, "tools", [{"type": "image_generation"}]),
        (RESPONSES, "tools", [{"type": "code_interpreter", "container": {"type": "auto"}}]),
        (RESPONSES, "tool_choice", {"type": "mcp", "server_label": "x"}),
        (RESPONSES, "input", [{"type": "item_reference", "id": "msg_1"}]),
        (RESPONSES, "input", user({"type": "input_image", "image_url": META})),
        (RESPONSES, "input", user({"type": "input_file", "file_url": META})),
        (RESPONSES, "input", user({"type": "input_file", "file_id": "x"})),
        (CHAT, "messages", user({"type": "image_url", "image_url": {"url": META}})),
        (CHAT, "messages", user({"type": "text", "text": "x", "uuid": "1"})),
        (CHAT, "messages", user({"type": "prompt_embeds", "data": "AAAA"})),
        (CHAT, "tools", [{"type": "web_search"}]),
        (CHAT, "response_format", {"type": "structural_tag", "format": {}}),
        (CHAT, "structured_outputs", {"regex": "x" * 5000}),
        (TOKENIZE, "messages", user({"type": "image_url", "image_url": {"url": META}})),
        (CLAUDE, "messages", user({"type": "image", "source": {"type": "url", "url": META}})),
        (CLAUDE, "messages", user({"type": "document", "source": {"type": "url", "url": META}})),
        (COUNT, "messages", user({"type": "image", "source": {"type": "url", "url": META}})),
        (CLAUDE, "tools", [{"type": "web_fetch_20260209", "name": "web_fetch"}]),
        (EMBED, "encoding_format", "bytes"),
        (RERANK, "documents", [{"content": [{"type": "image_url", "image_url": {"url": META}}]}]),
        (SCORE, "text_1", {"content": [{"type": "text", "text": "x"}]}),
        (CHAT, "messages", [{"role": "user", "content": "x"}] * 4097),
        (CHAT, "messages", [{"role": "user", "content": [{"type": "text", "text": "x"}] * 1025}]),
        (CHAT, "tools", [{"type": "function", "function": {"name": "x"}}] * 513),
        (CLAUDE, "messages", [{"role": "user", "content": "x"}] * 4097),
        (CLAUDE, "tools", [{"name": "x", "input_schema": {}}] * 513),
        (COUNT, "messages", [{"role": "user", "content": "x"}] * 4097),
        (RESPONSES, "input", [{"role": "user", "content": "x"}] * 4097),
        (TOKENIZE, "messages", [{"role": "user", "content": "x"}] * 4097),
        (DETOKENIZE, "tokens", [1] * 49153),
        (DETOKENIZE, "tokens", [-1]),
        (DETOKENIZE, "tokens", ["1"]),
    ],
)
async def test_every_refused_value(edge: Edge, path: str, name: str, value: Any) -> None:
    """Vast numbers and lists, server tools, media from elsewhere, and forms that are not walked."""
    fields = {"prompt": None} if path == TOKENIZE else {}
    await refused(edge, path, {**fields, name: value}, 400, name)


async def test_the_rest_is_served(edge: Edge) -> None:
    """The proxy that refused all that goes on serving every endpoint."""
    for path, least in LEAST.items():
        assert (await edge.post(path, {"model": BASE, **least})).status == 200
