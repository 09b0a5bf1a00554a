"""The table of endpoints, and a body's way from bytes to what was authorized, parsed once."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Never
from urllib.parse import unquote

import msgspec

from proxy import fields, settings
from proxy.errors import Denied, Dialect

JsonObject = dict[str, Any]

_LONG_NUMBER: Final = re.compile(rb"[0-9]{19}")


Kind = Literal["inference", "models", "model", "health"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A public path, and the dialect of its errors and events."""

    path: str
    method: str = "POST"
    kind: Kind = "inference"
    dialect: Dialect = "openai"
    salted: bool = True  # whether the engine's route takes `cache_salt`


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request goes; `argument` is the model's name in `/v1/models/{org}/{name}`."""

    endpoint: Endpoint
    argument: str = ""


_MODEL: Final = Endpoint("/v1/models/{model}", "GET", "model")
ENDPOINTS: Final[Mapping[str, Endpoint]] = {
    endpoint.path: endpoint
    for endpoint in (
        Endpoint("/v1/chat/completions"),
        Endpoint("/v1/completions"),
        Endpoint("/v1/models", "GET", "models"),
        Endpoint("/health", "GET", "health"),
    )
}


def route(method: str, target: str) -> Route | Denied:
    """Find the endpoint of a request target, taken literally: nothing is decoded or normalised.

    The one exception is the model in `/v1/models/{model}`, whose slash the OpenAI SDK encodes.
    """
    path = target.partition("?")[0]
    if path.startswith("/v1/models/"):
        found = Route(_MODEL, unquote(path.removeprefix("/v1/models/")))
    elif path in ENDPOINTS:
        found = Route(ENDPOINTS[path])
    else:
        return Denied("unknown_endpoint", "There is no such endpoint here; see the list in the README.")
    if method != found.endpoint.method and (method, found.endpoint.method) != ("HEAD", "GET"):
        allow = (("Allow", found.endpoint.method),)  # RFC 9110, section 15.5.6
        return Denied("method_not_allowed", f"Use {found.endpoint.method} here.", headers=allow)
    return found


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """A body that passed the allow-list; `model` is the name as the caller wrote it."""

    endpoint: Endpoint
    model: str
    stream: bool
    body: JsonObject

    def encode(self, *, model: str, cache_salt: str) -> bytes:
        """The bytes for the engine: what was parsed and checked, under the pinned name, salted."""
        salt = {"cache_salt": cache_salt} if self.endpoint.salted else {}
        return msgspec.json.encode({**self.body, "model": model, **salt})


class _DuplicateKeyError(ValueError):
    """A key stands twice: two parsers could read two different requests."""


def parse(endpoint: Endpoint, raw: bytes, limits: settings.Request) -> InferenceRequest | Denied:
    """Read and check a JSON body. Whatever is not known to be harmless is refused."""
    body = _decode(raw)
    if isinstance(body, Denied):
        return body
    refused = _unlisted(endpoint, body, limits) or _typed(body) or _capped(body, limits)
    refused = refused or _messages(body.get("messages", []), limits)
    if refused is not None:
        return refused
    return InferenceRequest(endpoint, body["model"], body.get("stream") is True, body)


def _decode(raw: bytes) -> JsonObject | Denied:
    try:
        body = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_float=_finite,
            parse_int=_whole if _LONG_NUMBER.search(raw) else None,  # token ids are many and short
            parse_constant=_no_constant,
        )
        msgspec.json.encode(body)  # refuses what could not be sent on: lone surrogates
    except _DuplicateKeyError:
        return Denied("invalid_request", "A key stands twice in the body; each may stand once.")
    except (ValueError, OverflowError):
        return Denied("invalid_request", "The body is not JSON (RFC 8259, UTF-8).")
    except RecursionError:
        return Denied("invalid_request", "The body is nested too deeply.")
    if not isinstance(body, dict):
        return Denied("invalid_request", "The body must be a JSON object.")
    return body


def _unique(pairs: list[tuple[str, Any]]) -> JsonObject:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _DuplicateKeyError
    return found


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):  # 1e999 would be sent on as null
        raise ValueError("a number is too large")
    return number


def _whole(text: str) -> int:
    number = int(text)
    if not -(2**63) <= number < 2**64:  # no field means more, and the engine counts in 64 bits
        raise ValueError("a number is too large")
    return number


def _no_constant(_: str) -> Never:
    raise ValueError("NaN and Infinity are not JSON")


def _unlisted(endpoint: Endpoint, body: JsonObject, limits: settings.Request) -> Denied | None:
    extra = limits.extra_fields.get(endpoint.path, frozenset())
    for name in body:
        if name in fields.ALLOWED[endpoint.path] or name in extra:
            continue
        reason = fields.REFUSED.get(name)
        because = f": {reason}" if reason else ""
        shown = name if name.isidentifier() and len(name) <= 64 else "(unprintable)"
        return Denied("invalid_request", f"The field {shown} is not accepted here{because}.", shown)
    return None


def _typed(body: JsonObject) -> Denied | None:
    """The types of the fields that decisions rest on."""
    if not isinstance(body.get("model"), str):
        return Denied("invalid_request", "`model` must name a model, as org/name.", "model")
    if not isinstance(body.get("stream", False), bool | None):
        return Denied("invalid_request", "`stream` must be true or false.", "stream")
    if body.get("store") not in (None, False):
        return Denied("invalid_request", "Responses are not stored here; leave `store` out.", "store")
    return None


def _capped(body: JsonObject, limits: settings.Request) -> Denied | None:
    caps = {
        "n": limits.max_n,
        "best_of": limits.max_n,
        "top_logprobs": limits.max_logprobs,
        "logprobs": limits.max_logprobs,
    }
    for name, most in caps.items():
        value = body.get(name)
        if value is None or isinstance(value, bool):
            continue
        if not isinstance(value, int) or not 0 <= value <= most:
            return Denied("invalid_request", f"`{name}` must be between 0 and {most} here.", name)
    prompt = body.get("prompt")
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) and len(prompt) > limits.max_n:
        return Denied("invalid_request", f"At most {limits.max_n} prompts in one request here.", "prompt")
    return None


def _messages(messages: Any, limits: settings.Request) -> Denied | None:
    if not isinstance(messages, list):
        return Denied("invalid_request", "`messages` must be a list.", "messages")
    for message in messages:
        if not isinstance(message, dict):
            return Denied("invalid_request", "Each of `messages` must be an object.", "messages")
        if message.keys() - fields.MESSAGE_KEYS:
            return Denied("invalid_request", "A message carries a key that is not accepted here.", "messages")
        content = message.get("content")
        if not isinstance(content, str | list | None):
            return Denied("invalid_request", "`content` must be text or a list of parts.", "messages")
        for part in content if isinstance(content, list) else ():
            if refused := _part(part, limits):
                return refused
    return None


def _part(part: Any, limits: settings.Request) -> Denied | None:
    kind = part.get("type") if isinstance(part, dict) else None
    if (
        not isinstance(kind, str)
        or kind not in fields.CONTENT_PARTS
        or part.keys() - fields.CONTENT_PARTS[kind]
    ):
        return Denied(
            "invalid_request", "A content part is of a type, or has a key, not accepted here.", "messages"
        )
    media = part.get(kind)
    if kind not in fields.MEDIA_KEYS:
        return None
    if not isinstance(media, dict) or media.keys() - fields.MEDIA_KEYS[kind]:
        return Denied("invalid_request", f"`{kind}` must be an object with its documented keys.", "messages")
    url = media.get("url", "data:")
    if limits.media_urls == "data" and not (isinstance(url, str) and url.startswith("data:")):
        return Denied("invalid_request", "Media must come in the request, as a data: URL.", "messages")
    return None
