"""The paths themselves: programs of neighbouring releases, vLLM and every SDK know them by these names."""

from hubgate.wire import endpoints

CALLERS = {
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
}
CONTROL = {"HELLO": "/v1/hello", "ENSURE": "/v1/ensure", "REFRESH": "/v1/refresh", "RELOAD": "/v1/reload"}
SUPERVISOR = {
    "LOAD_ADAPTER": "/hubgate/adapters",
    "UNLOAD_ADAPTER": "/hubgate/adapters/unload",
    "STATUS": "/hubgate/status",
    "DRAIN": "/hubgate/drain",
    "SLEEP": "/hubgate/sleep",
    "WAKE": "/hubgate/wake",
}


def test_what_a_proxy_may_ask_of_an_engine() -> None:
    """These and no others: a path that is added here is open to every caller with a grant."""
    assert endpoints.FORWARDED == CALLERS


def test_what_the_programs_ask_of_each_other() -> None:
    """A proxy of this release and a backend of the next find each other."""
    expected = CONTROL | SUPERVISOR
    assert {name: getattr(endpoints, name) for name in expected} == expected
    assert not endpoints.FORWARDED & set(expected.values())
