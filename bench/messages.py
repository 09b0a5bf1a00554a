"""What goes over the wire in a benchmark: the request, the answer and the events, as bytes made once."""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

LOCAL: Final = "127.0.0.1"
MODEL: Final = "demo/tiny-llama"
PATH: Final = "/v1/chat/completions"
QUESTION: Final = "Say in two sentences why a reverse proxy should not parse what it forwards. " * 2
WORDS: Final = "It would have to agree with the server about every byte of every request. " * 4

NOTHING: Final = MappingProxyType[str, str]({})
EVENT: Final = b"data: {"
"""How every event of a stream begins, but the last, which is `data: [DONE]`."""


def chat(
    *, events: int = 0, hold: bool = False, size: int = 0, model: str = MODEL, tokens: int = 128
) -> bytes:
    """The body of a chat request: about 300 bytes, or `size` more.

    With `events` the answer is a stream of so many; with `hold` it stops after the first, and stays open.
    The upstream reads both from fields that every contender passes on.
    """
    body = {
        "model": model,
        "messages": [{"role": "user", "content": QUESTION + "x" * size}],
        "temperature": 0.7,
        "max_tokens": events or tokens,
    }
    if events:
        body |= {"stream": True, "user": "hold" if hold else "go"}
    return json.dumps(body, separators=(",", ":")).encode()  # as the SDKs write


def post(
    body: bytes, token: str | None = None, headers: Mapping[str, str] = NOTHING, path: str = PATH
) -> bytes:
    """The whole request."""
    lines = [
        f"POST {path} HTTP/1.1",
        f"Host: {LOCAL}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *([f"Authorization: Bearer {token}"] if token else []),
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _answer(body: bytes) -> bytes:
    lines = ["HTTP/1.1 200 OK", "Content-Type: application/json", f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


COMPLETION: Final = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1790000000,
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": WORDS},
                "finish_reason": "stop",
                "logprobs": None,
            }
        ],
        "usage": {"prompt_tokens": 40, "completion_tokens": 70, "total_tokens": 110},
    }
).encode()
ANSWER: Final = _answer(COMPLETION)
MODELS: Final = _answer(
    json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "bench"}]}).encode()
)
STREAM_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(sent: int) -> bytes:
    """One event of about 200 bytes as a chunk of its own; `sent` is in nanoseconds (CLOCK_MONOTONIC)."""
    delta = f'{{"index":0,"delta":{{"content":"@{sent}@"}},"logprobs":null,"finish_reason":null}}'
    kind = f'"id":"chatcmpl-1","object":"chat.completion.chunk","created":1790000000,"model":"{MODEL}"'
    return _chunk(f'data: {{{kind},"choices":[{delta}]}}\n\n'.encode())


LAST_CHUNK: Final = b"\r\n0\r\n\r\n"
"""How every chunked body ends, here: without trailers."""
STREAM_END: Final = _chunk(b"data: [DONE]\n\n") + _chunk(b"")
