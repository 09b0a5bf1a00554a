"""Which headers cross: an allow-list each way."""

from hypothesis import given
from hypothesis import strategies as st

from hubgate.proxy.upstream import header_filter
from tests.cases import each
from tests.fakes.lines import by_name

OURS = {
    "host",
    "user-agent",
    "content-type",
    "content-length",
    "x-hubgate-grant",
    "x-request-id",
    "accept-encoding",
}
VALUES = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20
)  # what the parser lets in


def sent(*inbound: tuple[str, str], host: str = "gpu", cost: str = "") -> dict[str, str]:
    """The headers that reach the engine; each stands once."""
    head = header_filter.to_upstream(
        "/v1/chat/completions",
        (host, 8201, ""),
        header_filter.passed(inbound),
        7,
        grant="ours",
        cost=cost,
        request_id="req-1",
    )
    line, *fields, blank, nothing = head.decode("latin-1").split("\r\n")
    assert (line, blank, nothing) == ("POST /v1/chat/completions HTTP/1.1", "", "")
    found = dict(field.split(": ", 1) for field in fields)
    assert len(found) == len(fields)
    return {name.lower(): value for name, value in found.items()}


def test_tracing_and_accept_pass() -> None:
    """W3C Trace Context and `Accept` reach the engine."""
    found = sent(("traceparent", "00-1"), ("tracestate", "a=b"), ("accept", "text/event-stream"))
    assert found.keys() - OURS == {"traceparent", "tracestate", "accept"}


@each(
    "name",
    [
        "Authorization",
        "X-Api-Key",
        "Cookie",
        "X-Hubgate-Grant",
        "x-hubgate-grant",
        "X_Hubgate_Grant",
        "X-Hubgate-Cost",
        "X-Vllm-Priority",
        "X-Request-Id",
        "X-Forwarded-For",
        "X-Amzn-SageMaker-Adapter-Identifier",
        "Connection",
        "Transfer-Encoding",
        "Content-Length",
        "Content-Type",
        "Content-Encoding",
        "Accept-Encoding",
        "Expect",
        "Upgrade",
        "TE",
        "Host",
        "Proxy-Authorization",
        "User-Agent",
        "OpenAI-Organization",
        "X-Data-Parallel-Rank",
    ],
)
def test_nothing_else_passes(name: str) -> None:
    """No credential, no grant of theirs, no hop-by-hop header and nothing unknown reaches the engine."""
    found = sent((name.lower(), "theirs"))
    assert found.keys() == OURS
    assert "theirs" not in found.values()


@given(st.dictionaries(VALUES, VALUES))
def test_ours_are_always_ours(inbound: dict[str, str]) -> None:
    """Whatever comes in, the grant and the request id are the proxy's."""
    found = sent(*inbound.items())
    assert (found["x-hubgate-grant"], found["x-request-id"]) == ("ours", "req-1")
    assert (found["content-type"], found["content-length"]) == ("application/json", "7")
    assert found.keys() - OURS <= header_filter.REQUEST


def test_an_address_is_written_as_a_host() -> None:
    """RFC 3986, section 3.2.2: an IPv6 address stands in brackets."""
    assert sent(host="::1")["host"] == "[::1]:8201"


def test_the_way_back_is_an_allow_list_too() -> None:
    """The engine's type and cache rule pass; its cookies, server and links do not."""
    inbound = [
        ("content-type", "text/event-stream"),
        ("content-length", "5"),
        ("cache-control", "no-store"),
        ("set-cookie", "a=b"),
        ("server", "uvicorn"),
        ("content-encoding", "gzip"),
        ("transfer-encoding", "chunked"),
        ("connection", "close"),
        ("location", "http://x"),
        ("x-request-id", "theirs"),
        ("access-control-allow-origin", "*"),
    ]
    assert by_name(header_filter.to_caller(inbound)) == {
        "Content-Type": "text/event-stream",
        "Cache-Control": "no-store",
    }


def test_a_stream_is_not_held_back_on_its_way() -> None:
    """An answer is buffered by nginx unless it is told not to, and nobody is to keep events for later."""
    inbound = [("content-type", "text/event-stream"), ("cache-control", "max-age=60"), ("server", "uvicorn")]
    assert by_name(header_filter.to_caller(inbound, streaming=True)) == {
        "Content-Type": "text/event-stream",
        "Cache-Control": "no-cache",
        "X-Accel-Buffering": "no",
    }


def test_a_cost_is_told_where_there_is_one() -> None:
    """To the engine's gate, which reads no body; by the proxy alone."""
    assert sent(("x-hubgate-cost", "1,1"), cost="8,5")["x-hubgate-cost"] == "8,5"
    assert "x-hubgate-cost" not in sent(("x-hubgate-cost", "1,1"))
