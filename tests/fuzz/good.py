"""Good requests of every endpoint: what mutations begin with."""

import json
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from tests.fakes.forms import SOUND, SPEECH, TRANSLATION, form, part, recording
from tests.fakes.running_proxy import ALICE, BASE, BOB, MISSING, PRIVATE, PUBLIC

_TEXTS: Final = ("hello", "Grüße", "日本語 🙂", 'a\nb\t"c"\\', "", "x" * 300)
_TOOL: Final = {
    "type": "function",
    "function": {
        "name": "f",
        "description": "d",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
}
_MESSAGES: Final = [
    {"role": "system", "content": "You are brief."},
    {"role": "user", "content": [{"type": "text", "text": "hello"}]},
]

# Bodies by path, each without its model: as the SDKs write them, with the fields that have a shape.
BODIES: Final[dict[str, tuple[dict[str, Any], ...]]] = {
    "/v1/chat/completions": (
        {"messages": [{"role": "user", "content": "hello"}]},
        {"messages": _MESSAGES, "max_tokens": 16, "temperature": 0.5, "stop": ["a", "b"], "n": 2, "seed": 7},
        {"messages": _MESSAGES, "tools": [_TOOL], "tool_choice": "auto", "logprobs": True, "top_logprobs": 3},
        {"messages": _MESSAGES, "stream": True, "stream_options": {"include_usage": True}},
        {"messages": _MESSAGES, "response_format": {"type": "json_object"}, "logit_bias": {"7": 1.5}},
    ),
    "/v1/completions": (
        {"prompt": "hello"},
        {"prompt": ["a", "b"], "max_tokens": 4, "echo": False, "best_of": 1},
        {"prompt": [1, 2, 3], "stream": True, "top_p": 0.9},
        {"prompt": [[1, 2], [3]], "logprobs": 1},
    ),
    "/v1/responses": (
        {"input": "hello", "store": False},
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": "hello"}]}], "stream": True},
    ),
    "/v1/messages": (
        {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 16},
        {
            "messages": _MESSAGES[1:],
            "max_tokens": 16,
            "system": "brief",
            "stream": True,
            "stop_sequences": ["a"],
        },
    ),
    "/v1/messages/count_tokens": ({"messages": [{"role": "user", "content": "hello"}]},),
    "/tokenize": ({"prompt": "hello"}, {"messages": _MESSAGES, "add_generation_prompt": True}),
    "/detokenize": ({"tokens": [1, 2, 3]},),
    "/v1/embeddings": ({"input": "hello"}, {"input": ["a", "b"], "encoding_format": "float"}),
    "/v1/rerank": ({"query": "q", "documents": ["a", "b"], "top_n": 1},),
    "/v1/score": ({"text_1": "a", "text_2": ["b", "c"]},),
}
FORMS: Final = (SPEECH, TRANSLATION)
LISTS: Final = ("/v1/models", f"/v1/models/{BASE}", "/v1/models/demo%2Ftiny-llama", "/health")

_MODELS: Final = (
    *(BASE,) * 16,
    PUBLIC,
    PRIVATE,
    MISSING,
    "demo/none",
    "other/one",
    BASE + "@main",
    "../x",
    "",
)
_TOKENS: Final = (*(ALICE,) * 24, BOB, "hf_demo_nobody")

Headers = list[tuple[bytes, bytes]]


@dataclass(slots=True)
class Draft:
    """One request before it is bytes. `fields` is the JSON of its body, if it has one of JSON."""

    method: bytes
    target: bytes
    headers: Headers
    fields: dict[str, Any] | None = None
    body: bytes = b""
    version: bytes = b"HTTP/1.1"


def draft(rng: Random, name: str) -> Draft:
    """A good request, under this id."""
    headers: Headers = [(b"Host", b"hubgate"), (b"X-Request-Id", name.encode())]
    token = rng.choice(_TOKENS).encode()
    headers.append((b"x-api-key", token) if rng.random() < 0.03 else (b"Authorization", b"Bearer " + token))
    kind = rng.choices((_json, _form, _listing), (84, 8, 8))[0]
    return kind(rng, headers)


def _json(rng: Random, headers: Headers) -> Draft:
    path = rng.choice(tuple(BODIES))
    fields = json.loads(json.dumps({"model": rng.choice(_MODELS), **rng.choice(BODIES[path])}))
    if rng.random() < 0.2:
        fields["user"] = rng.choice(_TEXTS)
    return Draft(b"POST", path.encode(), [*headers, (b"Content-Type", b"application/json")], fields)


def _form(rng: Random, headers: Headers) -> Draft:
    parts = [part("model", rng.choice(_MODELS)), part("language", "en"), part("temperature", "0.5")]
    sound = rng.choice((SOUND, b"", b"\r\n--x-mark", bytes(rng.randbytes(200))))
    body = form(*parts[: rng.randint(1, 3)], recording(sound))
    headers = [*headers, (b"Content-Type", b"multipart/form-data; boundary=x-mark")]
    return Draft(b"POST", rng.choice(FORMS).encode(), headers, body=body)


def _listing(rng: Random, headers: Headers) -> Draft:
    return Draft(rng.choice((b"GET", b"GET", b"HEAD")), rng.choice(LISTS).encode(), headers)
