"""What clients always send and no engine reads: left out, and nothing but that."""

import json
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest

from hubgate.proxy.body import json_request
from hubgate.proxy.body.json_request import InferenceRequest
from hubgate.proxy.body.large_json import LargeBody, Sizes
from hubgate.proxy.endpoints import ENDPOINTS
from hubgate.proxy.errors import Denied
from hubgate.proxy.fields import places
from hubgate.proxy.fields.table import Table
from hubgate.proxy.settings import Request
from tests.cases import each
from tests.proxy.fields.test_tables import LEAST, TABLES

CHAT, PLAIN, RESPONSES, CLAUDE = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"
COUNT, TOKENIZE = "/v1/messages/count_tokens", "/tokenize"
SMALL = Sizes(block=64, kept=8, text=16, numbers=16, edge=8)
LIMITS = Request()
Body = dict[str, Any]


def sent(path: str, body: Body, limits: Request = LIMITS, **spelling: Any) -> Body | Denied:
    """What goes up for a body, or its refusal."""
    raw = json.dumps({"model": "a/b", **LEAST[path], **body}, **spelling).encode()
    return _fields(json_request.parse(ENDPOINTS[path], raw, limits))


async def sent_large(path: str, body: Body) -> Body | Denied:
    """The same of a body that is scanned while it comes, and has spans cut out."""
    large = LargeBody(SMALL)
    raw = json.dumps({"model": "a/b", **LEAST[path], **body}, separators=(",", ":")).encode()
    assert large.add(raw) is None
    assert large.end() is None
    assert large.scanned
    return _fields(await json_request.parse_large(ENDPOINTS[path], large, LIMITS))


def _fields(found: InferenceRequest | Denied) -> Body | Denied:
    if isinstance(found, Denied):
        return found
    read: Body = json.loads(b"".join(found.encode(model="a/b", cache_salt="5a17")))
    return read


def said(message: Body) -> Body:
    """A conversation that goes on after an answer of the model's."""
    return {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "x", **message}]}


def called(call: Body, function: Body | None = None) -> Body:
    """One in which the model called a function."""
    whole = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}", **(function or {})}}
    return said({"tool_calls": [{**whole, **call}]})


def part(more: Body) -> Body:
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", **more}]}]}


def tool(more: Body, function: Body | None = None) -> Body:
    return {"tools": [{"type": "function", "function": {"name": "f", **(function or {})}, **more}]}


def block(more: Body) -> Body:
    use = {"type": "tool_use", "id": "t", "name": "f", "input": {"a": None}}
    return {"messages": [{"role": "assistant", "content": [{**use, **more}]}]}


def item(more: Body) -> Body:
    return {"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", **more}]}


def output(more: Body) -> Body:
    text = {"type": "output_text", "text": "x", **more}
    return {"input": [{"type": "message", "role": "assistant", "content": [text]}]}


KEYS: Body = {"a": [1, {"b": None}], "role": "system", "content": "not this"}
EPHEMERAL = {"cache_control": {"type": "ephemeral"}}
WEB = {"type": "web_search", "external_web_access": False}
FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object", "default": None}}

# What clients send (the first), and what is sent on for it (the second).
CASES: list[tuple[str, Body, Body]] = [
    # The OpenAI SDK's own messages of `parse()` and `stream()`.
    (CHAT, said({"parsed": KEYS}), said({})),
    (CHAT, said({"parsed": None, "refusal": None, "annotations": []}), said({"refusal": None})),
    (CHAT, called({}, {"parsed_arguments": KEYS}), called({})),
    (CHAT, called({"index": 0}, {"parsed_arguments": None}), called({"index": 0})),
    (CHAT, {"store": True}, {}),
    (CHAT, {"store": False}, {}),
    (CHAT, {"prompt_cache_retention": "24h"}, {}),
    (CHAT, {"prompt_logprobs": None, "echo": False}, {}),
    (CHAT, {"use_beam_search": False, "best_of": 1, "background": False, "priority": 0}, {}),
    (CHAT, {"include_reasoning": None, "ignore_eos": None, "bad_words": None}, {}),
    (RESPONSES, output({"parsed": KEYS, "annotations": []}), output({})),
    (RESPONSES, output({"annotations": [{"type": "url_citation", "url": "http://x"}]}), output({})),
    (RESPONSES, item({"parsed_arguments": KEYS, "id": "fc"}), item({"id": "fc"})),
    (RESPONSES, {"prompt_cache_retention": "in_memory", "n": 1, "echo": False}, {}),
    (RESPONSES, {"tools": None, "tool_choice": None, "service_tier": None}, {}),
    (RESPONSES, {"input": [{"type": None, "role": "user", "content": "x", "to": None}]}, {"input": [
        {"role": "user", "content": "x"}]}),
    # LiteLLM.
    (CHAT, said({"provider_specific_fields": {"refusal": None}}), said({})),
    (CHAT, called({"provider_specific_fields": KEYS}, {"provider_specific_fields": KEYS}), called({})),
    (CHAT, said({"thinking_blocks": [{"type": "thinking", "thinking": "x", "signature": "y"}]}), said({})),
    (CHAT, part(EPHEMERAL), part({})),
    (CHAT, said(EPHEMERAL), said({})),
    (CHAT, tool(EPHEMERAL, EPHEMERAL), tool({})),
    (TOKENIZE, {"prompt": None, **said({"provider_specific_fields": KEYS})}, {"prompt": None, **said({})}),
    # Codex CLI.
    (RESPONSES, {"client_metadata": {"x-codex-installation-id": "1"}}, {}),
    (RESPONSES, {"tools": [FUNCTION, WEB]}, {"tools": [FUNCTION]}),
    (RESPONSES, {"tools": [WEB, {"type": "web_search_preview"}, FUNCTION, WEB]}, {"tools": [FUNCTION]}),
    (RESPONSES, {"tools": [WEB]}, {"tools": []}),
    (RESPONSES, {"tools": [{"type": "namespace", "name": "n", "description": "d", "tools": [
        {**FUNCTION, "defer_loading": True}]}]}, {"tools": [{"type": "namespace", "name": "n",
        "description": "d", "tools": [FUNCTION]}]}),
    (RESPONSES, {"reasoning": {"effort": "low", "context": "all_turns"}}, {"reasoning": {"effort": "low"}}),
    # OpenRouter, Gemini, llama.cpp.
    (CHAT, {"reasoning": {"effort": "high"}, "usage": {"include": True}, "provider": KEYS}, {}),
    (CHAT, {"transforms": ["middle-out"], "cache_prompt": True}, {}),
    (CHAT, said({"reasoning": "r", "reasoning_details": [KEYS]}), said({"reasoning": "r"})),
    (CHAT, called({"extra_content": {"google": {"thought_signature": "x"}}}), called({})),
    (PLAIN, {"cache_prompt": True, "store": True, "provider": KEYS}, {}),
    # huggingface_hub.
    (CHAT, {"response_format": {"type": "json_object", "value": {"type": "object", "x": None}}},
     {"response_format": {"type": "json_schema", "json_schema": {
         "name": "value", "schema": {"type": "object", "x": None}}}}),
    (PLAIN, {"response_format": {"type": "json", "value": {}}},
     {"response_format": {"type": "json_schema", "json_schema": {"name": "value", "schema": {}}}}),
    # Anthropic's SDK and agents.
    (CLAUDE, block({"caller": {"type": "direct"}}), block({})),
    (COUNT, block({"caller": {"type": "direct"}, "provider_specific_fields": KEYS}), block({})),
    (CLAUDE, {"messages": [{"role": "assistant", "content": [{"type": "text", "text": "x",
        "parsed_output": KEYS, "citations": [{"url": "http://x"}]}]}]},
     {"messages": [{"role": "assistant", "content": [{"type": "text", "text": "x"}]}]}),
    (CLAUDE, {"messages": [{"role": "user", "content": [{"type": "text", "text": "x",
        "cache_control": {"type": "ephemeral", "scope": "global"}}]}]},
     {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]}),
    (CLAUDE, {"mcp_servers": [], "stop_sequences": None, "client_metadata": KEYS}, {}),
    (CLAUDE, {"tools": [{"name": "f", "input_schema": {}, "defer_loading": True}]},
     {"tools": [{"name": "f", "input_schema": {}}]}),
]  # fmt: skip


@each(("path", "body", "rest"), CASES)
async def test_what_clients_send_is_left_out(path: str, body: Body, rest: Body) -> None:
    """As it is for the body without it: compact, spaced, and scanned with spans cut out of it."""
    found = sent(path, body, separators=(",", ":"))
    given = {name: value for name, value in {**LEAST[path], **rest}.items() if value is not None}
    ours: Body = {"model": "a/b"} | ({"cache_salt": "5a17"} if ENDPOINTS[path].salted else {})
    assert found == {**given, **ours, **ENDPOINTS[path].sends}
    assert found == sent(path, body) == sent(path, rest)
    padded = {"user": "x" * 100} if path in (CHAT, PLAIN, RESPONSES) else {"system": "x" * 100}
    if path != TOKENIZE:
        assert await sent_large(path, {**body, **padded}) == sent(path, {**rest, **padded})


@each(
    ("path", "body"),
    [
        (CHAT, {"response_format": {"type": "json_object", "value": "x"}}),
        (CHAT, {"response_format": {"type": "regex", "value": {}}}),
        (CHAT, {"response_format": {"type": "json_object", "value": {}, "more": 1}}),
        (CHAT, {"response_format": {"type": "json_object", "value": {"a": "x" * 70_000}}}),
        (CHAT, {"echo": 0}),
        (CHAT, {"priority": False}),
        (CHAT, {"best_of": True}),
        (CHAT, said({"parsed_arguments": {}})),
        (CHAT, {"parsed": {}}),
        (CHAT, {"provider_specific_fields": {}}),
        (CHAT, tool({"parsed": 1})),
        (CHAT, {"tools": [WEB]}),
        (CLAUDE, {"store": True}),
        (CLAUDE, {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
        (RESPONSES, {"store": True}),
        (RESPONSES, {"tools": [{"type": "namespace", "name": "n", "description": "d", "tools": [WEB]}]}),
        (RESPONSES, {"tool_choice": WEB}),
        ("/v1/embeddings", {"provider": {}}),
        (CHAT, {"structured_outputs": {"json": {}, "backend": False}}),
    ],
)
def test_nothing_else_is(path: str, body: Body) -> None:
    """A key is dropped where its row stands and nowhere else; what asks for something is refused."""
    assert isinstance(sent(path, body), Denied)


def test_free_json_stays_as_it_is() -> None:
    """`null` and any name mean something in a schema and in arguments, which are the caller's own."""
    schema = {"default": None, "parsed": None, "cache_control": None, "provider_specific_fields": {"x": None}}
    body = {**tool({}, {"parameters": schema}), **said({"parsed": 1})}
    assert sent(CHAT, body) == sent(CHAT, {**tool({}, {"parameters": schema}), **said({})})
    found = sent(CHAT, body)
    assert not isinstance(found, Denied)
    assert found["tools"][0]["function"]["parameters"] == schema
    assert sent(CLAUDE, block({"input": schema, "caller": 1})) == sent(CLAUDE, block({"input": schema}))


@each("raw", ['"parsed": 1, "parsed": 1', '"parsed": {"a": 1, "a": 2}', '"parsed": NaN', '"parsed": 1e999'])
def test_what_is_dropped_is_read_as_strictly(raw: str) -> None:
    """No two keys, and no number that is none, in what is not sent on either."""
    body = f'{{"model": "a/b", "messages": [{{"role": "assistant", "content": "x", {raw}}}]}}'
    assert isinstance(json_request.parse(ENDPOINTS[CHAT], body.encode(), LIMITS), Denied)


def test_what_is_dropped_counts_in_the_size_of_a_body() -> None:
    """Depth and values are bounded before anything is dropped."""
    deep: Any = []
    for _ in range(120):
        deep = [deep]
    found = sent(CHAT, said({"parsed": deep}))
    assert isinstance(found, Denied)
    large = LargeBody(SMALL)
    assert large.add(json.dumps({"client_metadata": [""] * 60_000}).encode()) is not None


def test_the_operators_fields_stay() -> None:
    """What `request.extra_fields` names is sent on, `null` and names that are dropped elsewhere included."""
    limits = Request(extra_fields={CHAT: frozenset({"provider", "mine", "echo"})})
    body = {"provider": {"a": None}, "mine": None, "echo": False}
    found = sent(CHAT, {**body, **said({"parsed": 1})}, limits)
    assert found == {**said({}), **body, "model": "a/b", "cache_salt": "5a17"}
    assert isinstance(sent(CHAT, {"mine": None, "yours": 1}, limits), Denied)


@each("path", [CHAT, RESPONSES, CLAUDE, TOKENIZE])
async def test_whatever_is_dropped_nothing_new_goes_up(path: str) -> None:
    """Random conversations with dropped keys anywhere: as if they were not there, spans in them included."""
    rng = Random(path)  # noqa: S311
    for _ in range(150):
        plain = conversation(rng, path)
        noisy = json.loads(json.dumps(plain))
        strew(rng, noisy, path)
        expected = sent(path, plain)
        assert not isinstance(expected, Denied)
        assert sent(path, noisy, separators=(",", ":")) == expected
        assert sent(path, noisy) == expected
        assert await sent_large(path, noisy) == expected


def conversation(rng: Random, path: str) -> Body:
    """Some turns of text, calls and results, in the words of a route."""

    def text() -> str:
        return rng.choice(("x", "", '日本語 \\ " 🙂', "word " * rng.randint(1, 60)))

    turns: list[Body] = []
    for _ in range(rng.randint(1, 4)):
        if path == RESPONSES:
            turns += rng.choice((
                [{"role": "user", "content": [{"type": "input_text", "text": text()}]}],
                [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": text()}]}],
                [{"type": "function_call", "call_id": "c", "name": "f", "arguments": text()}],
            ))  # fmt: skip
        elif path == CLAUDE:
            use = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
            turns += rng.choice((
                [{"role": "user", "content": [{"type": "text", "text": text()}]}],
                [{"role": "assistant", "content": [use]}],
            ))  # fmt: skip
        else:
            call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": text()}}
            turns += rng.choice((
                [{"role": "user", "content": [{"type": "text", "text": text()}]}],
                [{"role": "assistant", "content": text(), "tool_calls": [call]}],
            ))  # fmt: skip
    if path == TOKENIZE:
        return {"prompt": None, "messages": turns}
    if path == CHAT:
        return {"messages": turns, "temperature": rng.random(), "stop": [text()[:5]]}
    return {"input": turns} if path == RESPONSES else {"messages": turns, "max_tokens": rng.randint(1, 9)}


def strew(rng: Random, body: Body, path: str) -> None:
    """Put keys that are dropped, and `null` under names that nobody knows, wherever they may be."""
    table = TABLES[path]
    junk: list[Any] = [
        None, 1, "x" * rng.randint(0, 300), [5] * rng.randint(0, 99), {"model": "c/d", "messages": None},
    ]  # fmt: skip
    for name in rng.sample(sorted(table.dropped), min(2, len(table.dropped))):
        insert(rng, body, name, rng.choice(junk))
    insert(rng, body, "nobody_knows", None)
    for turn in body["input" if path == RESPONSES else "messages"]:
        for one, kind in objects(turn, table):
            names = sorted(places.dropped(kind) - one.keys())
            for name in rng.sample(names, min(rng.randint(0, 2), len(names))):
                insert(rng, one, name, rng.choice(junk))
            if rng.random() < 0.3:
                insert(rng, one, "nobody_knows", None)


def objects(turn: Body, table: Table) -> list[tuple[Body, type]]:
    """The objects of a turn with the shape of each."""
    from hubgate.proxy.fields import content, messages, responses

    kinds: dict[str, type]
    if table is TABLES[RESPONSES]:
        kinds = {
            "input_text": responses.InputText,
            "output_text": responses.OutputText,
            "function_call": responses.FunctionCall,
        }
        top = kinds.get(turn.get("type", ""), responses.Message)
    elif table is TABLES[CLAUDE]:
        kinds, top = {"text": messages.Text, "tool_use": messages.ToolUse}, messages.Message
    else:
        kinds, top = {"text": content.Text}, content.Message
    found: list[tuple[Body, type]] = [(turn, top)]
    inside = turn.get("content")
    found += [(one, kinds[one["type"]]) for one in inside] if isinstance(inside, list) else []
    for call in turn.get("tool_calls", ()):
        found += [(call, content.ToolCall), (call["function"], content.Called)]
    return found


def insert(rng: Random, into: Body, name: str, value: Any) -> None:
    """Add a key somewhere among the others."""
    entries = list(into.items())
    entries.insert(rng.randint(0, len(entries)), (name, value))
    into.clear()
    into.update(entries)


@each(
    "switches",
    [
        {"enable_thinking": False},
        {"thinking": True, "reasoning_effort": "low", "thinking_budget": 512, "ratio": 0.5, "x": None},
        {},
        {"date_string": "2026-12-01"},
        {f"switch_{number}": True for number in range(16)},
    ],
)
def test_switches_of_a_template_pass(switches: Body) -> None:
    """Flat and short ones, on every route that renders a conversation."""
    for path in (CHAT, RESPONSES, CLAUDE, COUNT):
        found = sent(path, {"chat_template_kwargs": switches})
        assert not isinstance(found, Denied)
        assert found["chat_template_kwargs"] == switches


@each(
    "switches",
    [
        {"chat_template": "{{ x }}"},
        {"CHAT_template": "x"},
        {"my_template_x": "x"},
        {"template_id": "x"},
        {"tokenize": True},
        {"tokenizer_kwargs": "x"},
        {"bos_token": "x"},
        {"return_tensors": "pt"},
        {"return_dict": True},
        {"tools": "x"},
        {"available_tools": "x"},
        {"documents": "x"},
        {"messages": "x"},
        {"conversation": "x"},
        {"add_generation_prompt": False},
        {"continue_final_message": "x"},
        {"padding": "max_length"},
        {"truncation": True},
        {"max_length": 10**6},
        {"response_format": "x"},
        {"json_schema": "x"},
        {"raise_exception": "x"},
        {"strftime_now": "x"},
        {"_x": 1},
        {"__class__": 1},
        {"a b": 1},
        {"a\n": 1},
        {"": 1},
        {"x": {}},
        {"x": []},
        {"x": "x" * 257},
        {"x": 2**31},
        {"x" * 65: 1},
        {f"switch_{number}": True for number in range(17)},
        "x",
        [],
    ],
)
def test_and_nothing_that_the_engine_reads_as_its_own(switches: Any) -> None:
    """No template, no argument of the function that renders one, nothing nested, long or much of it."""
    for path in (CHAT, RESPONSES, CLAUDE):
        found = sent(path, {"chat_template_kwargs": switches})
        assert isinstance(found, Denied)
        assert (found.code, found.param) == ("invalid_request", "chat_template_kwargs")
    assert isinstance(sent(PLAIN, {"chat_template_kwargs": switches}), Denied)


@each(
    ("path", "body", "told"),
    [
        (CHAT, {"guided_json": {}}, "structured_outputs"),
        (PLAIN, {"guided_regex": "x"}, "structured_outputs"),
        (RESPONSES, {"guided_choice": ["x"]}, "structured_outputs"),
        (RESPONSES, {"tools": [{"type": "image_generation"}]}, "features.image_generation"),
        (RESPONSES, {"tools": [{"type": "mcp", "server_label": "x"}]}, "Codex CLI"),
        (CLAUDE, {"tools": [{"type": "web_search_20250305", "name": "x"}]}, "--disallowedTools WebSearch"),
        (PLAIN, {"echo": True, "logprobs": 1}, "loglikelihood"),
    ],
)
def test_a_refusal_says_what_to_do(path: str, body: Body, told: str) -> None:
    """The client's own switch, or the field to write instead."""
    found = sent(path, body)
    assert isinstance(found, Denied)
    assert told in found.message


def test_no_key_is_dropped_that_the_engine_reads() -> None:
    """Content, names, ids and what chooses a cache, a template or a model stay out of these lists."""
    read = {"role", "content", "tool_calls", "name", "arguments", "id", "type", "text", "input", "model"}
    for table in TABLES.values():
        assert not (read | {"uuid", "cache_salt"}) & table.dropped.keys()
        assert not table.dropped.keys() & table.allowed.keys()


@pytest.mark.engine
@each("path", sorted(TABLES))
def test_no_field_of_the_engine_is_dropped(path: str) -> None:
    """A field that a vLLM upgrade adds is not left out by a row that was made for others' fields."""
    from tests.proxy.fields import engine_models

    ignored = {"store", "prompt_cache_retention", "prompt_cache_options"}  # known to vLLM, and not read
    assert TABLES[path].dropped.keys() & engine_models.fields(path) <= ignored


@pytest.mark.long("engine")
@pytest.mark.timeout(180)
def test_vllm_takes_what_goes_up() -> None:
    """Its own request models read all of it, `null` in every field included, and know each key at the top."""
    bodies = [(path, body) for path, body, _ in CASES]
    for path in (CHAT, RESPONSES, CLAUDE, TOKENIZE):
        rng = Random(path)  # noqa: S311
        for _ in range(20):
            noisy = conversation(rng, path)
            strew(rng, noisy, path)
            bodies.append((path, noisy))
        names = TABLES[path].allowed.keys() | TABLES[path].refused.keys() | TABLES[path].dropped.keys()
        bodies += [
            (path, {name: None}) for name in sorted(names - LEAST[path].keys() - {"messages", "model"})
        ]
    bodies += [
        (path, {"chat_template_kwargs": {"enable_thinking": False}}) for path in (CHAT, RESPONSES, CLAUDE)
    ]
    lines = [json.dumps([path, sent(path, body)]) for path, body in bodies]
    program = Path(__file__).with_name("engine_reads.py")
    read = subprocess.run(
        [sys.executable, "-P", program], input="\n".join(lines), capture_output=True, text=True, check=True
    )
    told = [json.loads(line) for line in read.stdout.splitlines() if line.startswith("[")]
    assert len(told) == len(bodies)
    for line, (fault, unknown) in zip(lines, told, strict=True):
        assert (fault, unknown) == ("", []), line
