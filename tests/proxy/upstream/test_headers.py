"""Which headers cross: an allow-list each way."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.upstream import headers

OURS = {"Content-Type", "X-Hubgate-Grant", "X-Request-Id", "Accept-Encoding"}


def sent(*inbound: tuple[str, str]) -> dict[str, str]:
    return headers.to_upstream(inbound, grant="ours", request_id="req-1")


def test_tracing_and_accept_pass() -> None:
    """W3C Trace Context and `Accept` reach the engine."""
    found = sent(("TraceParent", "00-1"), ("tracestate", "a=b"), ("ACCEPT", "text/event-stream"))
    assert found.keys() - OURS == {"traceparent", "tracestate", "accept"}


@pytest.mark.parametrize(
    "name",
    [
        "Authorization",
        "X-Api-Key",
        "Cookie",
        "X-Hubgate-Grant",
        "x-hubgate-grant",
        "X_Hubgate_Grant",
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
    found = sent((name, "theirs"))
    assert found.keys() == OURS
    assert "theirs" not in found.values()


@given(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20))))
def test_ours_are_always_ours(inbound: list[tuple[str, str]]) -> None:
    """Whatever comes in, the grant and the request id are the proxy's."""
    found = sent(*inbound)
    assert (found["X-Hubgate-Grant"], found["X-Request-Id"]) == ("ours", "req-1")
    assert found["Content-Type"] == "application/json"
    assert {name.lower() for name in found} - {name.lower() for name in OURS} <= headers.REQUEST
    assert len({name.lower() for name in found}) == len(found)


def test_the_way_back_is_an_allow_list_too() -> None:
    """The engine's type, length and cache rule pass; its cookies, server and links do not."""
    inbound = {
        "Content-Type": "text/event-stream",
        "content-length": "5",
        "Cache-Control": "no-store",
        "Set-Cookie": "a=b",
        "Server": "uvicorn",
        "Content-Encoding": "gzip",
        "Transfer-Encoding": "chunked",
        "Connection": "close",
        "Location": "http://x",
        "X-Request-Id": "theirs",
        "Access-Control-Allow-Origin": "*",
    }
    assert headers.to_caller(inbound).keys() == {"Content-Type", "content-length", "Cache-Control"}
