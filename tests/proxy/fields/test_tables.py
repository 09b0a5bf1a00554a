"""The tables of fields: complete for this vLLM and these SDKs, and applied to every endpoint."""

import json
from typing import Any, cast

import pytest
from anthropic.types import message_count_tokens_params, message_create_params
from anthropic.types.beta import message_create_params as beta_message_create_params
from openai.types import completion_create_params, embedding_create_params
from openai.types.audio import transcription_create_params, translation_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params

from hubgate.proxy import endpoints
from hubgate.proxy.body import json_request
from hubgate.proxy.endpoints import ENDPOINTS, Endpoint
from hubgate.proxy.errors import Denied
from hubgate.proxy.fields.table import Dropped, Field, Refused, Table, field, refused
from hubgate.proxy.settings import Request
from hubgate.wire.cost import read
from tests.cases import each
from tests.proxy.fields import engine_models

TABLES: dict[str, Table] = {path: one.fields for path, one in ENDPOINTS.items() if one.fields is not None}
LIMITS = Request()
HUGE = 2**63

# What the SDKs' authors know of each route.
SDKS: dict[str, Any] = {
    "/v1/chat/completions": chat_create_params.CompletionCreateParamsBase,
    "/v1/completions": completion_create_params.CompletionCreateParamsBase,
    "/v1/embeddings": embedding_create_params.EmbeddingCreateParams,
    "/v1/responses": response_create_params.ResponseCreateParamsBase,
    "/v1/messages": message_create_params.MessageCreateParamsBase,
    "beta /v1/messages": beta_message_create_params.MessageCreateParamsBase,
    "/v1/messages/count_tokens": message_count_tokens_params.MessageCountTokensParams,
    "/v1/audio/transcriptions": transcription_create_params.TranscriptionCreateParamsBase,
    "/v1/audio/translations": translation_create_params.TranslationCreateParams,
}

# The least that each endpoint takes.
LEAST: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": []},
    "/v1/completions": {"prompt": "x"},
    "/v1/embeddings": {"input": "x"},
    "/v1/responses": {"input": "x"},
    "/v1/messages": {"messages": [], "max_tokens": 1},
    "/v1/messages/count_tokens": {"messages": []},
    "/v1/rerank": {"query": "x", "documents": ["x"]},
    "/v1/score": {"text_1": "x", "text_2": "x"},
    "/tokenize": {"prompt": "x"},
    "/detokenize": {"tokens": [1]},
}
JSON_ENDPOINTS = sorted(LEAST)


CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
PLACES: list[tuple[str, dict[str, Any], int]] = [
    (CHAT, {}, 1),
    (CHAT, {"n": 8}, 8),
    (CHAT, {"n": None, "logprobs": None, "top_logprobs": None}, 1),
    (CHAT, {"logprobs": True, "top_logprobs": 20}, 5),
    (CHAT, {"logprobs": True, "top_logprobs": 4}, 2),
    (CHAT, {"n": 3, "logprobs": True, "top_logprobs": 5}, 6),
    (COMPLETIONS, {"prompt": ["a", "b"], "n": 3}, 6),
    (COMPLETIONS, {"prompt": [1, 2, 3]}, 1),
    (COMPLETIONS, {"prompt": [[1, 2, 3], [4]]}, 2),
    (COMPLETIONS, {"prompt": []}, 1),
    (COMPLETIONS, {"prompt": "a", "logprobs": 11}, 4),
    (COMPLETIONS, {"prompt": "a", "logprobs": 0}, 1),
    (RESPONSES, {"top_logprobs": 20}, 5),
    ("/v1/embeddings", {"input": ["a"] * 2048}, 1),
]
COSTS: list[tuple[str, dict[str, Any], str]] = [
    (CHAT, {}, ""),
    (CHAT, {"n": 8}, "8,1"),
    (CHAT, {"logprobs": True, "top_logprobs": 20}, "1,5"),
    (CHAT, {"n": 3, "logprobs": True, "top_logprobs": 5}, "3,2"),
    (COMPLETIONS, {"prompt": ["a", "b"], "n": 3, "logprobs": 10}, "6,3"),
    (RESPONSES, {"top_logprobs": 20}, "1,5"),
    ("/v1/embeddings", {"input": "a"}, ""),
    ("/v1/embeddings", {"input": [1, 2, 3]}, ""),
    ("/v1/embeddings", {"input": ["a"] * 2048}, "2048,1"),
    ("/v1/rerank", {"documents": ["a"] * 30}, "30,1"),
    ("/v1/score", {"text_2": ["a"] * 7}, "7,1"),
]


def parse(path: str, **fields: Any) -> json_request.InferenceRequest | Denied:
    """Parse the least body of an endpoint with these fields over it."""
    raw = json.dumps({"model": "a/b", **LEAST[path], **fields}).encode()
    return json_request.parse(ENDPOINTS[path], raw, LIMITS)


def refusal(path: str, **fields: Any) -> Denied:
    """The refusal of these fields, which is a bad request."""
    found = parse(path, **fields)
    assert isinstance(found, Denied), fields
    assert found.code == "invalid_request"
    return found


def known(path: str) -> set[str]:
    return TABLES[path].allowed.keys() | TABLES[path].refused.keys() | TABLES[path].dropped.keys()


def test_every_endpoint_that_the_engine_serves_has_a_table() -> None:
    """No inference endpoint is without a table, and each table is of one that the engine has."""
    assert TABLES.keys() == engine_models.MODELS.keys()
    assert {path for path, one in ENDPOINTS.items() if one.kind == "inference"} == LEAST.keys()


@pytest.mark.engine
@each("path", sorted(TABLES))
def test_every_field_of_the_engine_is_decided(path: str) -> None:
    """A field that a vLLM upgrade adds to a request model fails this until somebody decides about it."""
    fields = engine_models.fields(path)
    assert "model" in fields
    assert fields - known(path) == set()


@each("sdk", sorted(SDKS))
def test_every_field_of_the_sdks_is_decided(sdk: str) -> None:
    """A field that an SDK documents is in the table, be it let through or refused with a reason."""
    fields = set(cast("dict[str, Any]", SDKS[sdk].__annotations__))
    assert len(fields) >= 5
    assert fields - known(sdk.rpartition(" ")[2]) == set()


@pytest.mark.engine
@each("path", sorted(TABLES))
def test_the_salt_goes_where_the_engine_reads_it(path: str) -> None:
    """`cache_salt` is set on the routes whose model has it, and on no other."""
    assert ENDPOINTS[path].salted == ("cache_salt" in engine_models.fields(path))


@each("path", JSON_ENDPOINTS)
def test_what_the_proxy_sets(path: str) -> None:
    """The pinned name, the salt and, on responses, `store: false`; nothing else is added."""
    found = parse(path)
    assert isinstance(found, json_request.InferenceRequest)
    sent = json.loads(b"".join(found.encode(model="a/b@sha", cache_salt="5a17")))
    ours: dict[str, Any] = {"model": "a/b@sha"}
    ours |= {"cache_salt": "5a17"} if ENDPOINTS[path].salted else {}
    ours |= {"store": False} if path == "/v1/responses" else {}
    assert sent == {**LEAST[path], **ours}


@each("path", sorted(TABLES))
def test_every_row_says_why(path: str) -> None:
    """No row stands without its reason."""
    table = TABLES[path]
    rows: list[Field | Refused | Dropped] = [*table.allowed.values(), *table.refused.values()]
    rows += table.dropped.values()
    assert all(len(row.reason) >= 4 for row in rows)


@each("path", JSON_ENDPOINTS)
def test_refused_fields_say_why(path: str) -> None:
    """A field that was left out on purpose is refused by name with its reason, unless it asks for nothing."""
    for name, row in TABLES[path].refused.items():
        values: tuple[Any, ...] = (2, True, "x", {"a": 1}, ["x"])
        for value in values:
            found = parse(path, **{name: value})
            assert isinstance(found, Denied)
            assert (found.code, found.param) == (row.code, name)
            assert row.reason in found.message


@each("path", JSON_ENDPOINTS)
def test_null_is_as_good_as_nothing(path: str) -> None:
    """Clients that write every field, most of them as null, are served."""
    optional = {row.name: None for row in TABLES[path].allowed.values() if not row.required}
    optional |= dict.fromkeys((*TABLES[path].refused, *TABLES[path].dropped, "nobody knows this"))
    found = parse(path, **{name: None for name in optional if name not in LEAST[path]})
    least = parse(path)
    assert isinstance(found, json_request.InferenceRequest)
    assert isinstance(least, json_request.InferenceRequest)
    assert json.loads(b"{" + b"".join(found.rest)) == json.loads(b"{" + b"".join(least.rest))


@each("path", JSON_ENDPOINTS)
def test_a_wrong_type_is_named(path: str) -> None:
    """A value that is of no type a field takes is refused under the field's name."""
    for row in TABLES[path].allowed.values():
        assert refusal(path, **{row.name: [{"nothing": "takes this"}]}).param == row.name


CHAT, PLAIN, RESPONSES, CLAUDE = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"
EMBED, RERANK, SCORE, TOKENIZE = "/v1/embeddings", "/v1/rerank", "/v1/score", "/tokenize"


@each(
    ("path", "name", "most"),
    [
        (CHAT, "n", 8),
        (PLAIN, "n", 8),
        (PLAIN, "best_of", 8),
        (PLAIN, "logprobs", 20),
        (CHAT, "top_logprobs", 20),
        (RESPONSES, "top_logprobs", 20),
        (CHAT, "max_tokens", HUGE - 1),
        (CHAT, "max_completion_tokens", HUGE - 1),
        (PLAIN, "max_tokens", HUGE - 1),
        (RESPONSES, "max_output_tokens", HUGE - 1),
        (CLAUDE, "max_tokens", HUGE - 1),
        (CHAT, "min_tokens", HUGE - 1),
    ],
)
def test_numbers_are_whole_and_within_their_cap(path: str, name: str, most: int) -> None:
    """What costs by its number is a whole number between nothing and the cap; -1 is not "all"."""
    assert isinstance(parse(path, **{name: most}), json_request.InferenceRequest)
    assert isinstance(parse(path, **{name: 1}), json_request.InferenceRequest)
    for value in (most + 1, -1, -2, "1", 1.0, True, [1], 2**64 - 1):
        assert refusal(path, **{name: value}).param == name


@each(
    ("path", "name", "item", "most"),
    [
        (PLAIN, "prompt", "x", 8),
        (PLAIN, "prompt", [1, 2], 8),
        (EMBED, "input", "x", 2048),
        (EMBED, "input", [1, 2], 2048),
        (RERANK, "documents", "x", 2048),
        (SCORE, "text_2", "x", 2048),
        (CHAT, "stop", "x", 4),
        (RESPONSES, "stop", "x", 4),
        (CLAUDE, "stop_sequences", "x", 4),
        (CHAT, "stop_token_ids", 1, 128),
        (CHAT, "allowed_token_ids", 1, 1024),
        (CHAT, "bad_words", "x", 64),
        (CHAT, "messages", {"role": "user", "content": "x"}, 4096),
        (CLAUDE, "messages", {"role": "user", "content": "x"}, 4096),
        (RESPONSES, "input", {"role": "user", "content": "x"}, 2048),
        (CHAT, "tools", {"type": "function", "function": {"name": "x"}}, 512),
        (CLAUDE, "tools", {"name": "x", "input_schema": {}}, 512),
        ("/detokenize", "tokens", 1, 49152),
    ],
)
def test_lists_are_of_bounded_length(path: str, name: str, item: Any, most: int) -> None:
    """As many texts, messages, tools or token ids as the cap says, and not one more."""
    assert isinstance(parse(path, **{name: [item] * most}), json_request.InferenceRequest)
    assert refusal(path, **{name: [item] * (most + 1)}).param == name


@each(("path", "name"), [(PLAIN, "prompt"), (EMBED, "input")])
def test_a_list_of_token_ids_is_one_prompt(path: str, name: str) -> None:
    """Thousands of token ids are one text; with anything else among them they are counted one by one."""
    assert isinstance(parse(path, **{name: [1] * 5000}), json_request.InferenceRequest)
    for mixed in ([*[1] * 5000, "x"], [*[1] * 5000, [1]], [True] * 5000, [1.5] * 5000):
        assert refusal(path, **{name: mixed}).param == name


@each(("prompts", "n", "good"), [(8, 1, True), (1, 8, True), (2, 4, True), (3, 3, False), (8, 2, False)])
def test_prompts_times_answers_are_capped(prompts: int, n: int, *, good: bool) -> None:
    """Every prompt is answered `n` times, so it is their product that keeps within `max_n`."""
    found = parse(PLAIN, prompt=["x"] * prompts, n=n)
    assert isinstance(found, Denied) is not good


@each("logprobs", [0, 1, 20])
def test_log_probabilities_of_a_prompt_are_refused(logprobs: int) -> None:
    """Neither by name nor by `echo`: with adapters they end the engine, and everybody's requests with it."""
    assert refusal(PLAIN, echo=True, logprobs=logprobs).param == "echo"
    for path in (CHAT, PLAIN):
        assert refusal(path, prompt_logprobs=logprobs).param == "prompt_logprobs"
    assert refusal(CHAT, echo=True).param == "echo"
    for fields in ({"echo": False, "logprobs": logprobs}, {"echo": True, "logprobs": None}):
        assert isinstance(parse(PLAIN, **fields), json_request.InferenceRequest)


def test_the_operators_caps_count() -> None:
    """`max_n`, `max_logprobs` and `max_batch` are those of the settings."""
    limits = Request(max_n=1, max_logprobs=0, max_batch=2)
    for path, fields in (
        (CHAT, {"messages": [], "n": 2}),
        (CHAT, {"messages": [], "top_logprobs": 1}),
        (EMBED, {"input": ["x"] * 3}),
    ):
        raw = json.dumps({"model": "a/b", **fields}).encode()
        assert isinstance(json_request.parse(ENDPOINTS[path], raw, limits), Denied)


def deep(levels: int) -> dict[str, Any]:
    """An object of so many levels."""
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


@each(
    ("path", "name", "wrap"),
    [
        (CHAT, "tools", lambda x: [{"type": "function", "function": {"name": "f", "parameters": x}}]),
        (RESPONSES, "tools", lambda x: [{"type": "function", "name": "f", "parameters": x}]),
        (CLAUDE, "tools", lambda x: [{"name": "f", "input_schema": x}]),
        (
            CHAT,
            "response_format",
            lambda x: {"type": "json_schema", "json_schema": {"name": "x", "schema": x}},
        ),
        (
            RESPONSES,
            "text",
            lambda x: {"format": {"type": "json_schema", "name": "x", "schema": x}},
        ),
        (CLAUDE, "output_config", lambda x: {"format": {"type": "json_schema", "schema": x}}),
        (CHAT, "structured_outputs", lambda x: {"json": x}),
    ],
)
def test_free_json_is_bounded(path: str, name: str, wrap: Any) -> None:
    """Schemas may be deep and long, within the bounds of what the engine compiles."""
    assert isinstance(parse(path, **{name: wrap(deep(40))}), json_request.InferenceRequest)
    assert "levels deep" in refusal(path, **{name: wrap(deep(70))}).message
    assert "bytes long" in refusal(path, **{name: wrap({"a": "x" * 600_000})}).message


@each(
    "outputs",
    [
        {"regex": "x" * 4097},
        {"grammar": "x" * 16385},
        {"choice": ["x"] * 1001},
        {"regex": "x", "whitespace_pattern": " "},
        {"json": {}, "disable_any_whitespace": True},
        {"json": {}, "disable_additional_properties": True},
        {"json": {}, "backend": "xgrammar"},
        {"structural_tag": "{}"},
        {"_backend": "outlines"},
        {"json": 5},
    ],
)
def test_grammars_are_bounded(outputs: dict[str, Any]) -> None:
    """What the engine compiles is short, and its backend is not the caller's choice."""
    assert refusal(CHAT, structured_outputs=outputs).param == "structured_outputs"


@each(
    ("path", "fields"),
    [
        (SCORE, {"queries": "x", "documents": "y"}),
        (SCORE, {"text_2": None}),
        (SCORE, {"data_1": "x"}),
        (TOKENIZE, {"messages": []}),
        (TOKENIZE, {"prompt": None}),
    ],
)
def test_one_form_and_no_other(path: str, fields: dict[str, Any]) -> None:
    """A body that could be read in two ways, or in none, is refused and told the ways there are."""
    assert "must carry" in refusal(path, **fields).message


def test_a_table_holds_each_name_once() -> None:
    """A field that stands twice in a table is a mistake that shows at import."""
    with pytest.raises(ValueError, match="twice"):
        Table(field("n", int, "a reason"), refused("n", "another"))


def test_a_wrong_path_under_extra_fields_is_a_fault() -> None:
    """The operator's `extra_fields` are for endpoints that take fields; a slip is told at start."""
    assert endpoints.unknown({CHAT: {"x"}}) == []
    assert len(endpoints.unknown({"/v1/chat": {"x"}, "/health": {"x"}})) == 2


def test_forms_are_not_json() -> None:
    """An endpoint that takes a form refuses JSON, whatever is in it."""
    recording = ENDPOINTS["/v1/audio/transcriptions"]
    assert isinstance(recording, Endpoint)
    found = json_request.parse(recording, b'{"model": "a/b", "file": "x"}', LIMITS)
    assert isinstance(found, Denied)
    assert found.code == "unsupported_media_type"


@each(("path", "fields", "places"), PLACES)
def test_answers_and_log_probabilities_weigh(path: str, fields: dict[str, Any], places: int) -> None:
    """What a body asks for says as how many requests it counts."""
    found = parse(path, **fields)
    assert isinstance(found, json_request.InferenceRequest)
    assert found.places == places


@each(("path", "fields", "told"), COSTS)
def test_an_engines_gate_is_told_what_a_body_asks_for(path: str, fields: dict[str, Any], told: str) -> None:
    """How many sequences will run, and what a token of them weighs; one of each goes without saying."""
    found = parse(path, **fields)
    assert isinstance(found, json_request.InferenceRequest)
    assert found.cost == told
    if told:
        cost = read(told.encode())
        assert found.places in (1, cost.sequences * cost.per_token)
