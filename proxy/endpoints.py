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


# Claude Code asks whether anybody is there; anything but HEAD is no endpoint.
_ROOT: Final = Endpoint("/", method="HEAD", kind="health")
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
_VERSION: Final = "/v1"
_MODELS: Final = "/v1/models/"
_ANTHROPIC: Final = (
    endpoints.MESSAGES,
    _VERSION + endpoints.MESSAGES,
    endpoints.MESSAGES.removeprefix(_VERSION),
)
_HOST: Final = "this server"
MAX_HOST: Final = 255  # characters of one that is repeated (RFC 1035, section 2.3.4), with its port
_ROUTES: Final = {path: Route(endpoint) for path, endpoint in ENDPOINTS.items()}


def route(method: str, target: str, host: str = "") -> Route | Denied:
    """Find the endpoint of a request target, taken literally: nothing is decoded or normalised.

    The one exception is the model in `/v1/models/{model}`, whose slash the OpenAI SDK encodes. `host`
    is what the caller calls this server, for the advice to those whose base URL is wrong.
    """
    path = target.partition("?")[0]
    found: Route
    if path == _MODELS:  # Anthropic's and others' lists end with a slash
        found = _ROUTES["/v1/models"]
    elif path.startswith(_MODELS):
        found = Route(_MODEL, unquote(path.removeprefix(_MODELS)))
    elif (known := _ROUTES.get(path)) is not None:
        found = known
    elif path == "/" and method == "HEAD":
        return Route(_ROOT)
    else:
        return Denied("unknown_endpoint", f"There is no such endpoint here; {_advice(path, host)}.")
    if method != found.endpoint.method and (method, found.endpoint.method) != ("HEAD", "GET"):
        allow = f"Allow: {found.endpoint.method}\r\n"  # RFC 9110, section 15.5.6
        return Denied("method_not_allowed", f"Use {found.endpoint.method} here.", lines=allow)
    return found


def dialect(target: str) -> Dialect:
    """How to tell a caller that there is no such endpoint: under Anthropic's paths, in Anthropic's words."""
    return "anthropic" if target.startswith(_ANTHROPIC) else "openai"


def _advice(path: str, host: str) -> str:
    """What is wrong with the base URL of a client that asks for this path, if that is to be seen.

    The OpenAI SDK adds `/chat/completions` to its base URL, Anthropic's adds `/v1/messages`.
    """
    meant = [_VERSION + path, path.removeprefix(_VERSION)]
    for known in ENDPOINTS:  # the whole URL of an endpoint as base URL
        if path.startswith(known):
            rest = path.removeprefix(known)
            meant += [rest, _VERSION + rest]
    if not any(_is_known(one) for one in meant):
        return "see the list in the README"
    where = f"http(s)://{host if 0 < len(host) <= MAX_HOST else _HOST}"
    if dialect(path) == "anthropic":
        return f"the base_url of Anthropic's SDK is without /v1: {where}"
    return f"base_url must end in /v1, once: {where}{_VERSION}"


def _is_known(path: str) -> bool:
    return path in _ROUTES or path.startswith(_MODELS)


def unknown(paths: Mapping[str, Any]) -> list[str]:
    """The faults of `request.extra_fields`: paths that take no fields."""
    return [
        f"request.extra_fields: {path} is no endpoint that takes fields"
        for path in paths
        if path not in ENDPOINTS or ENDPOINTS[path].fields is None
    ]
