"""The table of endpoints: exact paths, taken literally, and nothing else."""

from hypothesis import given
from hypothesis import strategies as st

from hubgate.proxy import endpoints
from hubgate.proxy.endpoints import ENDPOINTS, Route
from hubgate.proxy.errors import Denied
from hubgate.wire.endpoints import FORWARDED
from tests.cases import each

# docs/design.md: the whole table, but for the GETs.
POSTED = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/rerank",
    "/v1/score",
    "/tokenize",
    "/detokenize",
    "/v1/audio/transcriptions",
    "/v1/audio/translations",
)


def code(found: Route | Denied) -> str:
    """The code of a refusal, or `ok`."""
    return found.code if isinstance(found, Denied) else "ok"


@each(
    ("method", "target", "path"),
    [
        ("POST", "/v1/chat/completions", "/v1/chat/completions"),
        ("POST", "/v1/completions?x=1", "/v1/completions"),
        ("GET", "/v1/models", "/v1/models"),
        ("HEAD", "/v1/models", "/v1/models"),
        ("GET", "/health", "/health"),
        ("HEAD", "/health?probe", "/health"),
        ("HEAD", "/", "/"),
        ("GET", "/v1/models/", "/v1/models"),
        ("GET", "/v1/models/?limit=1000", "/v1/models"),
        ("GET", "/v1/models/a/b", "/v1/models/{model}"),
        *(("POST", path, path) for path in POSTED),
    ],
)
def test_known_endpoints_are_found(method: str, target: str, path: str) -> None:
    """Each endpoint of the table is found by its exact path; a query does not matter."""
    found = endpoints.route(method, target)
    assert isinstance(found, Route)
    assert found.endpoint.path == path


@each(
    ("target", "model"),
    [
        ("/v1/models/demo/tiny", "demo/tiny"),
        ("/v1/models/demo%2Ftiny", "demo/tiny"),
        ("/v1/models/demo%2ftiny%40main", "demo/tiny@main"),
        ("/v1/models/demo%252Ftiny", "demo%2Ftiny"),
        ("/v1/models/..%2f..%2fpause", "../../pause"),
    ],
)
def test_a_models_name_is_decoded_once(target: str, model: str) -> None:
    """The SDK's `%2F` is read as a slash there, and nothing is decoded twice or normalised."""
    found = endpoints.route("GET", target)
    assert isinstance(found, Route)
    assert found.argument == model


@each(
    "target",
    [
        "/",
        "",
        "*",
        "//",
        "/v1",
        "/v1/",
        "/v1/chat",
        "/v1/chat/completions/",
        "/v1/chat//completions",
        "//v1/chat/completions",
        "/V1/chat/completions",
        "/v1/../pause",
        "/v1/%2e%2e/pause",
        "/v1/chat/../chat/completions",
        "/v1%2fchat/completions",
        "/v1%2Fmodels",
        "/v1/chat/completions;x",
        "/v1/chat/completions#x",
        "/v1/chat/completions%00",
        "/v1/chat/completions\\",
        "/health/",
        "/health#",
        "/%68ealth",
        "/metrics",
        "/pause",
        "/sleep",
        "/invocations",
        "/adapters",
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
        "/collective_rpc",
        "/hubgate/adapters",
        "/v1/responses/resp_1",
        "/v1/responses/resp_1/cancel",
        "/v1/responses/",
        "/v1/messages/",
        "/v1/messages/batches",
        "/v1/messages/count_tokens/",
        "/v1/audio/speech",
        "/v1/realtime",
        "/v1/chat/completions/batch",
        "/v1/chat/completions/render",
        "/v2/embed",
        "/v2/rerank",
        "/rerank",
        "/score",
        "/pooling",
        "/classify",
        "/inference/v1/generate",
        "/tokenizer_info",
        "/docs",
        "/openapi.json",
        "http://evil/v1/models",
        "http://evil/health",
        "evil:443",
    ],
)
@each("method", ["GET", "POST", "HEAD", "OPTIONS", "CONNECT"])
def test_everything_else_does_not_exist(method: str, target: str) -> None:
    """A path outside the table is unknown to every method; but whether anybody is there may be asked."""
    if (method, target) == ("HEAD", "/"):
        return
    assert code(endpoints.route(method, target)) == "unknown_endpoint"


def test_the_table_and_the_engines_gate_agree() -> None:
    """What the proxy forwards is what the gate inside the engine lets a use grant reach, and no more."""
    forwarded = {path for path, one in ENDPOINTS.items() if one.fields is not None}
    assert forwarded == FORWARDED == set(POSTED)


@given(st.text(max_size=40) | st.text("/v1chatmodels%2eF.;?#", max_size=40))
def test_no_path_but_those_of_the_table(target: str) -> None:
    """Whatever the target, a route is one of the table or a refusal."""
    found = endpoints.route("GET", target)
    if isinstance(found, Route):
        path = target.partition("?")[0]
        assert path in ENDPOINTS or path.startswith("/v1/models/")


@each(
    ("method", "target", "allow"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("HEAD", "/v1/completions", "POST"),
        ("PUT", "/v1/completions", "POST"),
        ("POST", "/v1/models", "GET"),
        ("DELETE", "/v1/models/a/b", "GET"),
        ("TRACE", "/health", "GET"),
    ],
)
def test_a_wrong_method_is_told_the_right_one(method: str, target: str, allow: str) -> None:
    """405 carries `Allow`."""
    found = endpoints.route(method, target)
    assert code(found) == "method_not_allowed"
    assert isinstance(found, Denied)
    assert found.lines == f"Allow: {allow}\r\n"


@each(
    ("target", "told"),
    [
        ("/chat/completions", "http(s)://me:8080/v1."),
        ("/completions?x=/v1", "http(s)://me:8080/v1."),
        ("/models", "http(s)://me:8080/v1."),
        ("/models/demo/tiny", "http(s)://me:8080/v1."),
        ("/responses", "http(s)://me:8080/v1."),
        ("/audio/transcriptions", "http(s)://me:8080/v1."),
        ("/v1/v1/chat/completions", "http(s)://me:8080/v1."),
        ("/v1/v1/models", "http(s)://me:8080/v1."),
        ("/v1/chat/completions/chat/completions", "http(s)://me:8080/v1."),
        ("/v1/tokenize", "http(s)://me:8080/v1."),
        ("/v1/v1/messages", "without /v1: http(s)://me:8080."),
        ("/v1/v1/messages/count_tokens", "without /v1: http(s)://me:8080."),
        ("/v1/messages/v1/messages", "without /v1: http(s)://me:8080."),
        ("/messages", "without /v1: http(s)://me:8080."),
    ],
)
def test_a_wrong_base_url_is_told_the_right_one(target: str, told: str) -> None:
    """A forgotten or doubled `/v1`, or a whole endpoint as base URL."""
    for method in ("GET", "POST"):
        found = endpoints.route(method, target, "me:8080")
        assert isinstance(found, Denied)
        assert found.code == "unknown_endpoint"
        assert found.message.endswith(told)
    assert (endpoints.dialect(target) == "anthropic") is ("messages" in target)


@each("target", ["/", "/pause", "/v1", "/v1/", "/v1/x", "/v1/chat/completions/", "/v1/v1/v1/models"])
def test_and_any_other_path_is_not(target: str) -> None:
    """Where nothing is to be guessed the list is named."""
    found = endpoints.route("GET", target, "me:8080")
    assert isinstance(found, Denied)
    assert found.message.endswith("see the list in the README.")
