"""How the requests of an attack are written: the bytes of each, given a token and its number."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

BASE = "demo/tiny-llama"
Fields = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sends a request, and which one it is of those of its attack."""

    token: str
    number: int
    shas: Sequence[str] = ()  # of what the attack's switches made at the demo Hub


Make = Callable[[Sender], bytes]
"""Makes the bytes of a request, its head included."""

# The least that each endpoint of JSON takes.
LEAST: dict[str, Fields] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}]},
    "/v1/completions": {"prompt": "x"},
    "/v1/embeddings": {"input": "x"},
    "/v1/responses": {"input": "x"},
    "/v1/messages": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1},
    "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": "hi"}]},
    "/v1/rerank": {"query": "x", "documents": ["x"]},
    "/v1/score": {"text_1": "x", "text_2": "x"},
    "/tokenize": {"prompt": "x"},
    "/detokenize": {"tokens": [1]},
}


def head(method: str, path: str, token: str | None, *lines: str) -> bytes:
    """The head of a request; these lines stand at its end."""
    credential = [] if token is None else [f"Authorization: Bearer {token}"]
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: hubgate", *credential, *lines, "", ""]).encode()


def post(path: str, token: str | None, body: bytes, *lines: str) -> bytes:
    """A whole request with a body of JSON, after which the server is to close."""
    about = ("Content-Type: application/json", f"Content-Length: {len(body)}", "Connection: close")
    return head("POST", path, token, *about, *lines) + body


def asking(path: str, **fields: Any) -> Make:
    """The endpoint's least body, these fields over it: None leaves one out, a function gets the number."""

    def make(sender: Sender) -> bytes:
        given = {name: one(sender.number) if callable(one) else one for name, one in fields.items()}
        merged = {"model": BASE, **LEAST[path], **given}
        kept = {name: one for name, one in merged.items() if one is not None}
        return post(path, sender.token, json.dumps(kept).encode())

    return make


def completion(**fields: Any) -> Make:
    """A plain completion of eight tokens, with these fields over it."""
    return asking("/v1/completions", **{"max_tokens": 8, "temperature": 0, **fields})


def chat(**fields: Any) -> Make:
    """A chat's answer of eight tokens, likewise."""
    return asking("/v1/chat/completions", **{"max_tokens": 8, "temperature": 0, **fields})


def beside(path: str, member: Callable[[int], bytes], without: str | None = None) -> Make:
    """The endpoint's least body with these bytes as its first members; one field may be left out of it."""

    def make(sender: Sender) -> bytes:
        rest = {name: one for name, one in LEAST[path].items() if name != without}
        body = b"{%b,%b" % (member(sender.number), json.dumps({"model": BASE, **rest}).encode()[1:])
        return post(path, sender.token, body)

    return make


def getting(path: str, *lines: str, method: str = "GET", times: int = 1, token: bool = True) -> Make:
    """A request without a body, so many times in one piece."""
    return lambda sender: head(method, path, sender.token if token else None, *lines) * times


def nested(levels: int, leaf: bytes = b"1", opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    """A value as deep as that."""
    return opening * levels + leaf + closing * levels


def deep(levels: int, leaf: bytes = b"1", *, long: bytes = b"1000000000000000000") -> bytes:
    """A long number, beside which a strict parser looks at every integer, and a nested value."""
    return b'"n":%b,"x":%b' % (long, nested(levels, leaf))


def form(*parts: tuple[str, bytes], boundary: str = "b", announced: str | None = None) -> Make:
    """An upload of these parts, each with its header lines; the head tells the boundary `announced`."""

    def make(sender: Sender) -> bytes:
        body = b"".join(b"--%b\r\n%b\r\n\r\n%b\r\n" % (boundary.encode(), h.encode(), c) for h, c in parts)
        body += b"--%b--\r\n" % boundary.encode()
        kind = f"Content-Type: multipart/form-data; boundary={boundary if announced is None else announced}"
        return (
            head(
                "POST", "/v1/audio/transcriptions", sender.token,
                kind, f"Content-Length: {len(body)}", "Connection: close",
            )
            + body
        )  # fmt: skip

    return make


def part(name: str, content: bytes, more: str = "") -> tuple[str, bytes]:
    """A part of a form."""
    return f'Content-Disposition: form-data; name="{name}"{more}', content
