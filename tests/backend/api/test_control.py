"""The control API: who may speak to it, and what it believes."""

import time
from typing import Any

import msgspec
from yarl import URL

from hubgate.backend.api.control import MAX_BODY
from hubgate.wire import keygen
from hubgate.wire.control_api import GRANT_HEADER, Ready
from hubgate.wire.seal import LIFETIME, Grant, control_grant, sign_grant
from tests.backend.harness import BASE, Running


async def _status(backend: Running, method: str, path: str, *grants: str) -> tuple[int, str]:
    headers = [(GRANT_HEADER, grant) for grant in grants]
    url = URL(backend.url + path, encoded=True)  # else the client tidies the path up
    async with backend.session.request(method, url, headers=headers) as response:
        return response.status, (await response.json())["error"]["code"] if response.status != 200 else ""


def _grant(backend: Running, **changes: Any) -> str:
    claims = {"aud": "gpu-0", "boot": "", "now": time.time(), **changes}
    return control_grant(backend.keyring.proxy.signing, **claims)[0]


async def test_every_path_asks_for_a_grant(backend: Running) -> None:
    """Default deny: nobody learns which paths exist."""
    for path in (
        "/v1/hello",
        "/v1/ensure",
        "/",
        "/v1/nope",
        "/metrics/x",
        "/livez/",
        "/v1/../livez",
        "//livez",
    ):
        for method in ("GET", "POST", "DELETE", "OPTIONS"):
            assert await _status(backend, method, path) == (401, "invalid_grant")
    assert await _status(backend, "POST", "/livez") == (401, "invalid_grant")


async def test_what_is_open_says_nothing_of_models(backend: Running) -> None:
    """Probes and metrics need no grant."""
    assert await _status(backend, "GET", "/livez") == (200, "")
    assert await _status(backend, "GET", "/readyz") == (200, "")
    assert BASE not in await backend.metrics()


async def test_a_hello_is_signed_and_fresh(backend: Running) -> None:
    """`Running.hello` checks signature and nonce; here is what it says."""
    hello = await backend.hello()
    assert (hello.name, hello.protocol, hello.engines) == ("gpu-0", 1, ())
    assert len(hello.boot) == 32


async def test_a_grant_is_spent_once(backend: Running) -> None:
    """A recorded one opens nothing."""
    grant = _grant(backend)
    assert await _status_of_hello(backend, grant) == 200
    assert await _status_of_hello(backend, grant) == 401


async def _status_of_hello(backend: Running, grant: str) -> int:
    async with backend.session.get(f"{backend.url}/v1/hello", headers={GRANT_HEADER: grant}) as response:
        return response.status


async def test_grants_for_others_are_refused(backend: Running) -> None:
    """Another backend's, an engine's, another boot's, an old one, one from the future."""
    others: tuple[dict[str, Any], ...] = (
        {"aud": "gpu-1"}, {"aud": "gpu-0/0"}, {"boot": "x"}, {"now": 0.0}, {"now": 2.0**40},
    )  # fmt: skip
    for changes in others:
        assert await _status(backend, "GET", "/v1/hello", _grant(backend, **changes)) == (
            401,
            "invalid_grant",
        )


async def test_two_grants_and_a_strangers_grant_are_refused(backend: Running) -> None:
    """One header, and a key that this backend was given."""
    grants = (_grant(backend), _grant(backend))
    assert await _status(backend, "GET", "/v1/hello", *grants) == (401, "invalid_grant")
    stranger, _ = control_grant(keygen.generate_supervisor(), aud="gpu-0", boot="", now=time.time())
    assert await _status(backend, "GET", "/v1/hello", stranger) == (401, "invalid_grant")


async def test_only_a_hello_may_be_asked_without_the_boot(backend: Running) -> None:
    """Whoever wants more has asked for it."""
    assert await _status(backend, "POST", "/v1/ensure", _grant(backend)) == (401, "invalid_grant")
    boot = (await backend.hello()).boot
    assert await _status(backend, "GET", "/v1/hello", _grant(backend, boot=boot)) == (200, "")
    assert await _status(backend, "GET", "/v1/nope", _grant(backend, boot=boot)) == (404, "unknown_endpoint")


async def test_a_use_grant_commands_nothing(backend: Running) -> None:
    """What lets a caller use an engine does not open the control API."""
    now = int(time.time())
    grant = Grant(kind="use", sub="", model="", aud="gpu-0", boot="", jti="1", iat=now, exp=now + LIFETIME)
    value = sign_grant(grant, backend.keyring.proxy.signing)
    assert await _status(backend, "GET", "/v1/hello", value) == (401, "invalid_grant")


async def test_scoped_tokens_for_others_are_refused(backend: Running) -> None:
    """threats.md, row 30: 401 with the reason, and nothing is fetched."""
    others: dict[str, tuple[dict[str, Any], ...]] = {
        "wrong_audience": ({"aud": "gpu-1"},),
        "old_boot": ({"boot": "old"}, {"boot": ""}),
        "expired": ({"iat": 0, "exp": 60}, {"exp": 2**40}),
        "from_the_future": ({"iat": 2**40, "exp": 2**40 + 1},),
    }
    for code, cases in others.items():
        for changes in cases:
            status, lines = await backend.post(await backend.scoped(backend.sha(BASE), **changes))
            assert (status, lines[0]["error"]["code"]) == (401, code)
    assert len(backend.hub.log) == 0


async def test_a_scoped_token_is_spent_once(backend: Running) -> None:
    """threats.md, row 30: a replay is 401."""
    sealed = await backend.scoped(backend.sha(BASE))
    assert (await backend.post(sealed))[0] == 200
    status, lines = await backend.post(sealed)
    assert (status, lines[0]["error"]["code"]) == (401, "replayed")


async def test_a_flipped_bit_opens_nothing(backend: Running) -> None:
    """Whatever part of it is changed."""
    sealed = await backend.scoped(backend.sha(BASE))
    for at in range(0, len(sealed), 97):
        other = "A" if sealed[at] != "A" else "B"
        assert (await backend.post(sealed[:at] + other + sealed[at + 1 :]))[0] == 401


async def test_a_token_must_name_commits(backend: Running) -> None:
    """The sha that was authorized is the sha that is loaded."""
    for base in (BASE, f"{BASE}@main", "../x@" + "a" * 40, "", "x"):
        status, lines = await backend.post(await backend.scoped(base))
        assert (status, lines[0]["error"]["code"]) == (400, "invalid_request")


async def test_a_body_that_is_none_is_refused(backend: Running) -> None:
    """It is the sender's fault, never a failure of ours."""
    boot = (await backend.hello()).boot
    for body in (b"", b"[]", b"{", b"\xff", b'{"token":1}', b'{"token":"x","more":1}'):
        headers = {GRANT_HEADER: _grant(backend, boot=boot)}
        async with backend.session.post(f"{backend.url}/v1/ensure", data=body, headers=headers) as response:
            assert response.status == 400


async def test_a_huge_body_is_refused(backend: Running) -> None:
    """It is not read to its end."""
    headers = {GRANT_HEADER: _grant(backend, boot=(await backend.hello()).boot)}
    body = b"x" * (MAX_BODY + 1)
    async with backend.session.post(f"{backend.url}/v1/ensure", data=body, headers=headers) as response:
        assert response.status == 413


async def test_the_stream_is_lines_that_end_with_the_outcome(backend: Running) -> None:
    """Progress about every half second, then exactly one outcome."""
    status, events = await backend.post(await backend.scoped(backend.sha(BASE)))
    assert status == 200
    assert isinstance(events[-1], Ready)
    assert {event.stage for event in events[:-1]} <= {"queued", "downloading", "starting", "loading"}
    assert msgspec.json.decode(msgspec.json.encode(events[-1]))["type"] == "ready"
