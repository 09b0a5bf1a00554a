"""The table of endpoints: what is not in it is 404 for everybody, and reaches nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from urllib.parse import unquote

from hubgate.proxy.errors import Denied, Dialect
from hubgate.proxy.fields.audio import TRANSCRIPTIONS, TRANSLATIONS
from hubgate.proxy.fields.generation import CHAT, COMPLETIONS
from hubgate.proxy.fields.messages import COUNT_TOKENS, MESSAGES
from hubgate.proxy.fields.pooling import EMBEDDINGS, RERANK, SCORE
from hubgate.proxy.fields.responses import RESPONSES
from hubgate.proxy.fields.table import Table
from hubgate.proxy.fields.tokens import DETOKENIZE, TOKENIZE
from hubgate.wire import endpoints

Kind = Literal["inference", "multipart", "models", "model", "health"]


@dataclass(frozen=True)
class Endpoint:
    """A public path, the fields of its body, and the dialect of its errors and events."""

    path: str
    fields: Table | None = None
    dialect: Dialect = "openai"
    method: str = "POST"
    kind: Kind = "inference"
    salted: bool = False  # whether the engine's request model has `cache_salt`
    metered: bool = False  # whether a stream tells its usage only if `stream_options` asks for it
    sends: Mapping[str, Any] = field(default_factory=dict)  # what is set whatever the caller says


@dataclass(frozen=True)
class Route:
    """Where a request goes; `argument` is the model's name in `/v1/models/{org}/{name}`."""

    endpoint: Endpoint
    argument: str = ""


_MODEL: Final = Endpoint("/v1/models/{model}", method="GET", kind="model")
ENDPOINTS: Final[Mapping[str, Endpoint]] = {
    endpoint.path: endpoint
    for endpoint in (
        Endpoint(endpoints.CHAT_COMPLETIONS, CHAT, salted=True, metered=True),
        Endpoint(endpoints.COMPLETIONS, COMPLETIONS, salted=True, metered=True),
        Endpoint(endpoints.EMBEDDINGS, EMBEDDINGS, salted=True),
        Endpoint(endpoints.RESPONSES, RESPONSES, "responses", salted=True, sends={"store": False}),
        Endpoint(endpoints.MESSAGES, MESSAGES, "anthropic", salted=True),
        Endpoint(endpoints.COUNT_TOKENS, COUNT_TOKENS, "anthropic"),
        Endpoint(endpoints.RERANK, RERANK, salted=True),
        Endpoint(endpoints.SCORE, SCORE, salted=True),
        Endpoint(endpoints.TOKENIZE, TOKENIZE),
        Endpoint(endpoints.DETOKENIZE, DETOKENIZE),
        Endpoint(endpoints.TRANSCRIPTIONS, TRANSCRIPTIONS, kind="multipart"),
        Endpoint(endpoints.TRANSLATIONS, TRANSLATIONS, kind="multipart"),
        Endpoint("/v1/models", method="GET", kind="models"),
        Endpoint("/health", method="GET", kind="health"),
    )
}
_ROUTES: Final = {path: Route(endpoint) for path, endpoint in ENDPOINTS.items()}


def route(method: str, target: str) -> Route | Denied:
    """Find the endpoint of a request target, taken literally: nothing is decoded or normalised.

    The one exception is the model in `/v1/models/{model}`, whose slash the OpenAI SDK encodes.
    """
    path = target.partition("?")[0]
    found: Route
    if path.startswith("/v1/models/"):
        found = Route(_MODEL, unquote(path.removeprefix("/v1/models/")))
    elif (known := _ROUTES.get(path)) is not None:
        found = known
    else:
        return Denied("unknown_endpoint", "There is no such endpoint here; see the list in the README.")
    if method != found.endpoint.method and (method, found.endpoint.method) != ("HEAD", "GET"):
        allow = f"Allow: {found.endpoint.method}\r\n"  # RFC 9110, section 15.5.6
        return Denied("method_not_allowed", f"Use {found.endpoint.method} here.", lines=allow)
    return found


def dialect(target: str) -> Dialect:
    """How to tell a caller that there is no such endpoint: under Anthropic's paths, in Anthropic's words."""
    return "anthropic" if target.startswith(endpoints.MESSAGES) else "openai"


def unknown(paths: Mapping[str, Any]) -> list[str]:
    """The faults of `request.extra_fields`: paths that take no fields."""
    return [
        f"request.extra_fields: {path} is no endpoint that takes fields"
        for path in paths
        if path not in ENDPOINTS or ENDPOINTS[path].fields is None
    ]
