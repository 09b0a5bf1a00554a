"""The proxy's end of the control API: whom it believes, and what it hands to whom."""

import asyncio
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Any
from unittest.mock import patch

import aiohttp
import msgspec
import pytest

from hubgate.demo.hub import DemoHub
from hubgate.proxy.auth.authorization import Access
from hubgate.proxy.auth.identity import Caller
from hubgate.proxy.upstream.control_client import BEGUN_AT_ONCE, ControlClient, ControlError
from hubgate.proxy.upstream.grant_signer import GrantSigner
from hubgate.wire.control_api import Event, Hello, LoadFailed, Progress
from hubgate.wire.repo import RepoRef
from hubgate.wire.seal import sign_hello
from tests.cases import each
from tests.fakes import hostile_json
from tests.fakes.answers import dies, head, raw, whole
from tests.fakes.backend import FakeBackend, Held, babbles, says
from tests.fakes.engine import RawEngine
from tests.fakes.identity import caller
from tests.fakes.keyring import Keyring

ACCESS = Access(RepoRef.parse("demo/tiny@" + "a" * 40), RepoRef.parse("alice/lora@" + "b" * 40))
CANARY = "hf_canary4711"


@dataclass(frozen=True)
class Pair:
    """A fake backend and the proxy's end of its control API."""

    backend: FakeBackend
    make: Callable[..., ControlClient]

    @property
    def control(self) -> ControlClient:
        return self.make()

    async def ensure(self, control: ControlClient | None = None, boot: str = "boot-1") -> list[Event]:
        asked = (control or self.control).ensure(ACCESS, caller(CANARY), boot, "req-12345")
        return [event async for event in asked]


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    ring = Keyring.make(tmp_path)
    async with aiohttp.ClientSession(auto_decompress=False) as session, FakeBackend.start(ring) as backend:

        def make(url: str = "", name: str = "gpu-0", **more: Any) -> ControlClient:
            own, half = ring.proxy, ring.backend_half
            grants = GrantSigner(lambda: own, time)
            return ControlClient(
                session,
                name,
                url or backend.url,
                backend=lambda: half,
                keys=lambda: own,
                grants=grants,
                now=time,
                **more,
            )

        backend.always(says())
        yield Pair(backend, make)


async def test_hello_tells_what_the_backend_runs(pair: Pair) -> None:
    """A signed, fresh hello is believed."""
    async with RawEngine.start() as engine:
        pair.backend.host(engine, str(ACCESS.base), "x/y@z")
        hello = await pair.control.hello()
    assert (hello.name, hello.boot) == ("gpu-0", "boot-1")
    assert (hello.engines[0].base, hello.engines[0].adapters) == (str(ACCESS.base), ("x/y@z",))


def changed(ring: Keyring, **changes: Any) -> Callable[[Hello], bytes]:
    """Tells a hello with other facts, well signed."""

    def tell(hello: Hello) -> bytes:
        facts = {**msgspec.to_builtins(hello), **changes}
        return sign_hello(msgspec.json.encode(facts), ring.backend.signing).encode()

    return tell


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"nonce": "0" * 32}, "not fresh"),
        ({"nonce": ""}, "not fresh"),
        ({"name": "gpu-1"}, "is named gpu-1"),
        ({"protocol": 2}, "speaks protocol 2"),
        ({"engines": None}, "malformed"),
        ({"engines": [{"id": 5}]}, "malformed"),
        ({"boot": None}, "malformed"),
    ],
)
async def test_a_hello_that_does_not_fit_is_not_believed(pair: Pair, changes: Any, reason: str) -> None:
    """A hello of another name, protocol or time, or without its parts, is an error that says why."""
    pair.backend.tell = changed(pair.backend.ring, **changes)
    with pytest.raises(ControlError, match=reason):
        await pair.control.hello()


async def test_a_replayed_hello_is_not_believed(pair: Pair) -> None:
    """What the backend once signed for another question is refused."""
    signed: list[bytes] = []
    honest = pair.backend.tell

    def record(hello: Hello) -> bytes:
        signed.append(honest(hello))
        return signed[0]

    pair.backend.tell = record
    await pair.control.hello()
    with pytest.raises(ControlError, match="not fresh"):
        await pair.control.hello()


async def test_a_stranger_is_not_believed(pair: Pair, tmp_path: Path) -> None:
    """A hello that another backend's key signed is refused."""
    pair.backend.tell = changed(Keyring.make(tmp_path / "stranger"))
    with pytest.raises(ControlError, match="bad_signature"):
        await pair.control.hello()


HELLO = b'"protocol":1,"name":"gpu-0","boot":"boot-1","nonce":"n","engines":[]'
ENGINE = b'{"id":"e","boot":"b","port":8200,"base":"a/b@c","state":"ready"}'


def hostile_hellos() -> dict[str, bytes]:
    """Well signed, each of them: by a backend that somebody has taken over."""
    engines = {
        "a port that is none": ENGINE.replace(b"8200", b"0"),
        "a port beyond all": ENGINE.replace(b"8200", b"9" * 400),
        "a negative port": ENGINE.replace(b"8200", b"-1"),
        "a state that is none": ENGINE.replace(b"ready", b"merry"),
        "a vast name": ENGINE.replace(b'"e"', b'"%b"' % (b"e" * 1_000_000)),
        "a vast base": ENGINE.replace(b"a/b@c", b"a" * 1_000_000),
        "adapters that are none": ENGINE.replace(b"}", b',"adapters":[5]}'),
    }
    return {
        **hostile_json.DOCUMENTS,
        **hostile_json.beside(HELLO),
        **{name: b"{%b}" % HELLO.replace(b"[]", b"[%b]" % engine) for name, engine in engines.items()},
        "many engines": b"{%b}" % HELLO.replace(b"[]", b"[%b]" % b",".join([ENGINE] * 20_000)),
        "another name, a vast one": b"{%b}" % HELLO.replace(b"gpu-0", b"g" * 1_000_000),
        "another protocol, a vast one": b"{%b}" % HELLO.replace(b":1,", b":%b," % (b"9" * 4000)),
    }


@each("name", hostile_hellos())
async def test_whatever_a_backend_says_is_one_kind_of_error(pair: Pair, name: str) -> None:
    """However deep, vast or odd a signed hello is, it is a `ControlError` of a few words."""
    said = sign_hello(hostile_hellos()[name], pair.backend.ring.backend.signing).encode()
    pair.backend.tell = lambda _: said
    with pytest.raises(ControlError) as raised:
        await pair.control.hello()
    assert len(raised.value.reason) < 100


@each("name", hostile_json.DOCUMENTS)
async def test_whatever_stands_in_the_head_of_a_signature(pair: Pair, name: str) -> None:
    """Before its signature is checked its header is parsed: JSON of whoever answers there."""
    header = urlsafe_b64encode(hostile_json.DOCUMENTS[name]).rstrip(b"=")
    for rest in (b".e30.AAAA", b".e30." + b"A" * 86, b".." + b"A" * 86, b"", b"...."):
        pair.backend.tell = lambda _, said=header + rest: said  # type: ignore[misc]
        with pytest.raises(ControlError):
            await pair.control.hello()


@pytest.mark.parametrize(
    "answer",
    [
        dies(),
        raw(head(200, [("Content-Length", "9" * 30)]), close=True),
        raw(head(200, [("Content-Length", "5"), ("Transfer-Encoding", "chunked")]) + b"hello", close=True),
        raw(head(200, [("Content-Length", "5"), ("Content-Encoding", "gzip")]) + b"hello"),
        raw(head(200, [("Transfer-Encoding", "chunked")]) + b"f" * 20 + b"\r\n", close=True),
        raw(head(200, [("Set-Cookie", "\x7f=;=;")]), close=True),
        raw(head(101, [("Upgrade", "x"), ("Connection", "upgrade")]), close=True),
        raw(b"HTTP/1.1 200 " + b"x" * 100_000 + b"\r\n\r\n", close=True),
        raw(b"HTTP/1.1 99999 X\r\n\r\n", close=True),
        raw(
            b"HTTP/1.1 200 X\r\n" + b"".join(b"x-%d: y\r\n" % n for n in range(20_000)) + b"\r\n", close=True
        ),
        raw(head(200), *[b"x" * 65536] * 80),  # more than a hello may have, and no end
        raw(whole(200, b"")),
        raw(whole(200, b"hello")),
        raw(whole(200, b"\xff" * 100)),
        raw(whole(500, b"")),
        raw(whole(401, b"")),
        raw(head(200, [("Content-Length", "100")]), close=True),
        raw(head(200, [("Transfer-Encoding", "chunked")]) + b"zz\r\n", close=True),
        raw(b"garbage\r\n\r\n", close=True),
    ],
)
async def test_whatever_answers_it_is_one_kind_of_error(pair: Pair, answer: Any) -> None:
    """Anything but a good hello, and anything but events, is a `ControlError`."""
    async with RawEngine.start() as rogue:
        rogue.always(answer)
        control = pair.make(f"http://127.0.0.1:{rogue.port}")
        with pytest.raises(ControlError):
            await control.hello()
        with suppress(ControlError):
            assert await pair.ensure(control) == []  # no result, which the gateway takes for an error


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(pair: Pair, status: int) -> None:
    """Neither the grant nor the sealed token goes to where a redirect points."""
    async with RawEngine.start() as rogue, DemoHub.start() as sink:
        rogue.always(raw(head(status, [("Location", f"{sink.endpoint}/v1/hello"), ("Content-Length", "0")])))
        control = pair.make(f"http://127.0.0.1:{rogue.port}")
        with pytest.raises(ControlError, match=str(status)):
            await control.hello()
        with pytest.raises(ControlError, match=str(status)):
            await pair.ensure(control)
        assert len(sink.log) == 0


async def test_nobody_there(pair: Pair) -> None:
    """A backend that is down is an error at once."""
    await pair.backend.down()
    for call in (pair.control.hello(), pair.ensure()):
        with pytest.raises(ControlError):
            await call


async def test_the_token_is_sealed_for_this_load_alone(pair: Pair) -> None:
    """The scoped token names the repos, shas, backend, boot and caller, and what asked for it."""
    await pair.ensure()
    (token,) = pair.backend.asked
    assert (token.base, token.adapter) == (str(ACCESS.base), str(ACCESS.adapter))
    assert (token.aud, token.boot, token.sub) == ("gpu-0", "boot-1", "a" * 32)
    assert token.secret().reveal() == CANARY
    assert token.exp - token.iat <= 60
    assert pair.backend.request_ids == ["req-12345"]


async def test_the_token_is_nowhere_in_clear(pair: Pair) -> None:
    """What crosses the network holds the caller's token in no form."""
    async with RawEngine.start() as rogue:
        rogue.always(raw(whole(200, b"")))
        await pair.ensure(pair.make(f"http://127.0.0.1:{rogue.port}"))
        (sent,) = rogue.requests
    assert CANARY.encode() not in sent.raw
    assert sent.json().keys() == {"token"}
    assert sent.header("authorization") is None


async def test_each_load_has_a_token_of_its_own(pair: Pair) -> None:
    """No scoped token is used twice."""
    await pair.ensure()
    await pair.ensure()
    assert len({token.jti for token in pair.backend.asked}) == 2
    assert pair.backend.refused == []


async def test_an_old_boot_is_refused_by_the_backend(pair: Pair) -> None:
    """A token for the boot before is worthless."""
    with pytest.raises(ControlError, match="401"):
        await pair.ensure(boot="boot-0")
    assert pair.backend.refused == ["old_boot"]


async def test_events_come_as_they_are_told(pair: Pair) -> None:
    """Progress and the result arrive in order."""
    told: list[Event] = [
        Progress(stage="downloading", repo="a/b@c", done=1, total=2, rate=0.5),
        LoadFailed(code="rejected", message="pickle only", repo="a/b@c"),
    ]
    pair.backend.then(says(*told))
    assert await pair.ensure() == told


@pytest.mark.parametrize(
    "babble",
    [
        b"\n",
        b"{}\n",
        b'{"type":"unknown"}\n',
        b'{"type":"ready"}\n',
        b'{"type":"failed","code":"sorry","message":""}\n',
        b"\xff\n",
        b'"' + b"x" * 1_000_000 + b'"\n',
        b"[" * 100_000 + b"\n",
        b'{"type":"progress","stage":"queued","repo":"a/b","unasked":'
        + b"[" * 20_000
        + b"]" * 20_000
        + b"}\n",
        b'{"type":"ready","engine":%b}\n' % ENGINE.replace(b"8200", b"9" * 400),
    ],
)
async def test_what_is_no_event_is_an_error(pair: Pair, babble: bytes) -> None:
    """A line that is empty, unknown, malformed or endless ends the load with a `ControlError`."""
    pair.backend.then(babbles(babble))
    with pytest.raises(ControlError):
        await pair.ensure()


async def test_loads_are_taken_up_in_turn(pair: Pair) -> None:
    """A backend opens a few tokens at a time, callers in turn, however many one of them has."""
    control, order = pair.control, []
    begun, most, go = 0, 0, asyncio.Event()
    begin = control._begin

    async def watched(access: Access, who: Caller, boot: str, request_id: str) -> aiohttp.ClientResponse:
        nonlocal begun, most
        begun, most = begun + 1, max(most, begun + 1)
        order.append(who.identity.sub)
        await go.wait()
        begun -= 1
        return await begin(access, who, boot, request_id)

    async def ensure(sub: str) -> None:
        async for _ in control.ensure(ACCESS, caller(CANARY, sub=sub), "boot-1", "req-12345"):
            pass

    with patch.object(control, "_begin", watched):
        greedy = [asyncio.create_task(ensure("greedy")) for _ in range(50)]
        await asyncio.sleep(0)
        light = asyncio.create_task(ensure("light"))
        await asyncio.sleep(0)
        go.set()
        await asyncio.gather(*greedy, light)
    assert most == BEGUN_AT_ONCE
    assert order.index("light") == BEGUN_AT_ONCE
    assert len(pair.backend.asked) == 51


async def test_a_load_that_goes_on_holds_no_turn(pair: Pair) -> None:
    """Once it was taken up, others are, while it lasts."""
    held = [Held(says()) for _ in range(BEGUN_AT_ONCE + 2)]
    pair.backend.then(*held)
    control = pair.control
    asking = [asyncio.create_task(pair.ensure(control)) for _ in held]
    async with asyncio.timeout(5):
        for load in held:
            await load.waiting.wait()
    for load in held:
        load.release()
    await asyncio.gather(*asking)


async def test_a_hello_has_connections_of_its_own(pair: Pair) -> None:
    """It is asked through another session than loads, where the proxy gives one."""
    async with aiohttp.ClientSession() as session:
        control = pair.make(hello_session=session)
        await control.hello()
        assert session.connector is not None
        assert len(session.connector._conns) == 1
        await pair.ensure(control)
        assert len(session.connector._conns) == 1


async def test_leaving_ends_the_call(pair: Pair) -> None:
    """When the proxy stops listening the backend sees it."""
    held = Held(says())
    pair.backend.then(held)
    asking = asyncio.create_task(pair.ensure())
    await held.waiting.wait()
    asking.cancel()
    async with asyncio.timeout(5):
        await held.cancelled.wait()
