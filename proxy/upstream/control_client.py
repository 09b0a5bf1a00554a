"""Talks to one backend's control API: what it runs, and making a model warm there."""

import secrets
import ssl
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

import aiohttp
import msgspec
from aiohttp.http_exceptions import HttpProcessingError

from hubgate.proxy.auth.authorization import Access
from hubgate.proxy.auth.identity import Caller
from hubgate.proxy.hub.fair_turns import FairTurns
from hubgate.proxy.upstream.engine_connection import Address
from hubgate.proxy.upstream.grant_signer import GrantSigner
from hubgate.runtime import tls
from hubgate.runtime.tls import TlsFiles, of_tls, reason
from hubgate.wire.control_api import (
    GRANT_HEADER,
    PROTOCOL,
    REQUEST_ID_HEADER,
    EngineInfo,
    EnsureRequest,
    Event,
    Hello,
    Places,
    PlacesRequest,
)
from hubgate.wire.endpoints import ENSURE, HELLO, PLACES
from hubgate.wire.keys import BackendPublic, ProxyKeys
from hubgate.wire.seal import LIFETIME, ScopedToken, SealError, seal_token, verify_hello

HELLO_TIMEOUT = aiohttp.ClientTimeout(total=5)
PLACES_TIMEOUT = aiohttp.ClientTimeout(total=2)  # others are asked after it
MAX_PLACES = 64 * 1024  # bytes
# What msgspec raises for bytes from outside: ValueError for what is no JSON, no UTF-8 or of another form,
# RecursionError for what is deep, also in members that nobody asks for.
NOT_JSON = (ValueError, RecursionError)
BEGUN_AT_ONCE = 8  # loads that a backend is asked to take up, callers in turn; then they go on beside others
MAX_HELLO = 4 * 1024 * 1024  # bytes; a thousand adapters are about 100 KiB


class ControlError(Exception):
    """The backend is out of reach, or what answers there is not it. `reason` is fit for the log."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ControlClient:
    """One backend's control API, as one proxy uses it."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        name: str,
        url: str,
        *,
        backend: Callable[[], BackendPublic],
        keys: Callable[[], ProxyKeys],
        grants: GrantSigner,
        now: Callable[[], float],
        hello_session: aiohttp.ClientSession | None = None,
        tls_files: TlsFiles | None = None,
    ) -> None:
        """`hello_session` is for hellos alone, so that none waits for a connection."""
        self._tls = tls_files
        self._session = session
        self._hello_session = hello_session or session
        self._turns = FairTurns(BEGUN_AT_ONCE, 0)
        self._name = name
        self._audience = name  # of a hello's grant; "" where it is the hello that tells the name
        self._url = url
        self._backend = backend
        self._keys = keys
        self._grants = grants
        self._now = now

    async def hello(self) -> Hello:
        """Ask what the backend is and runs. Raises `ControlError`."""
        grant, nonce = self._grants.control(self._audience, "")
        try:
            async with self._hello_session.get(
                self._url + HELLO,
                headers={GRANT_HEADER: grant},
                timeout=HELLO_TIMEOUT,
                allow_redirects=False,  # the grant is meant for this address alone
                ssl=self._context(),
                server_hostname=self._name if self._tls is not None else None,
            ) as response:
                if response.status != 200:
                    raise ControlError(f"hello answered {response.status}")
                signed = await response.content.read(MAX_HELLO)
                while not response.content.at_eof() and len(signed) < MAX_HELLO:
                    signed += await response.content.read(MAX_HELLO - len(signed))
        except (aiohttp.ClientError, HttpProcessingError, TimeoutError, OSError, ValueError) as error:
            raise ControlError(self._reason(error)) from None
        return self._believe(signed, nonce)

    async def ensure(
        self, access: Access, caller: Caller, boot: str, request_id: str
    ) -> AsyncGenerator[Event]:
        """Make a model warm; yields progress, then `Ready` or `LoadFailed`. Raises `ControlError`.

        Until the backend has taken it up, it waits for its turn: opening a token is work, and the backend
        says hello on the same loop.
        """
        turn = await self._turns.begin(caller.identity.sub)
        try:
            response = await self._begin(access, caller, boot, request_id)
        except (aiohttp.ClientError, HttpProcessingError, TimeoutError, OSError, ValueError) as error:
            raise ControlError(self._reason(error)) from None
        finally:
            self._turns.end(turn)
        try:
            async with response:
                if response.status != 200:
                    raise ControlError(f"ensure answered {response.status}")
                async for line in response.content:
                    event = msgspec.json.decode(line, type=Event)
                    yield event
        except (aiohttp.ClientError, HttpProcessingError, TimeoutError, OSError, *NOT_JSON) as error:
            # HttpProcessingError: a line that is longer than the buffer.
            raise ControlError(self._reason(error)) from None

    async def _begin(
        self, access: Access, caller: Caller, boot: str, request_id: str
    ) -> aiohttp.ClientResponse:
        grant, _ = self._grants.control(self._name, boot)
        request = EnsureRequest(token=self._scoped(access, caller, boot))
        return await self._session.post(
            self._url + ENSURE,
            data=msgspec.json.encode(request),
            headers={
                GRANT_HEADER: grant,
                REQUEST_ID_HEADER: request_id,
                "Content-Type": "application/json",
            },
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=30),
            allow_redirects=False,
            ssl=self._context(),
            server_hostname=self._name if self._tls is not None else None,
        )

    def _context(self) -> ssl.SSLContext | bool:
        """For the next connection. The name is checked, and not the address: see `hubgate.runtime.tls`."""
        return True if self._tls is None else self._tls.context("backend")

    def _believe(self, signed: bytes, nonce: str) -> Hello:
        try:
            hello = msgspec.json.decode(self._verified(signed), type=Hello)
        except SealError as error:
            raise ControlError(f"hello has a {error.reason}") from None
        except NOT_JSON:
            raise ControlError("hello is malformed") from None
        if hello.protocol != PROTOCOL:
            raise ControlError(f"speaks protocol {hello.protocol}, not {PROTOCOL}; update the older side")
        if not secrets.compare_digest(hello.nonce, nonce):
            raise ControlError("hello is not fresh")
        self._named(hello.name)
        return hello

    def _reason(self, error: Exception) -> str:
        """What is wrong with the connection or what came of it, for the log."""
        if (fault := of_tls(error)) is not None:
            return reason(fault)
        name = type(error).__name__
        if isinstance(error, aiohttp.ServerDisconnectedError):
            # The first is what a port that speaks TLS does when it is spoken to without.
            ended = "it ended the connection without an answer: does it speak TLS?"
            return f"{name}: {ended if self._tls is None else tls.ENDED}"
        return name

    def _verified(self, signed: bytes) -> bytes:
        """The payload, if the backend signed it. Raises `SealError`."""
        return verify_hello(signed, self._backend().verifying)

    def _named(self, name: str) -> None:
        """Check what a hello says to be. Raises `ControlError`."""
        if name != self._name:
            raise ControlError(f"is named {name}, not {self._name}")

    def _scoped(self, access: Access, caller: Caller, boot: str) -> str:
        now = int(self._now())
        token = ScopedToken(
            token=caller.token.reveal(),
            base=str(access.base),
            adapter=str(access.adapter) if access.adapter else None,
            sub=caller.identity.sub,
            aud=self._name,
            boot=boot,
            jti=secrets.token_hex(16),
            iat=now,
            exp=now + LIFETIME,
        )
        return seal_token(token, self._keys().signing, self._backend().sealing)


class GateClient:
    """What is asked of engines themselves, at their gates."""

    def __init__(
        self, session: aiohttp.ClientSession, grants: GrantSigner, tls_files: Mapping[str, TlsFiles]
    ) -> None:
        """`tls_files` has what is shown to the engines of which backends."""
        self._session = session
        self._grants = grants
        self._tls = tls_files

    async def places(
        self, address: Address, engine: EngineInfo, model: str, requests: Sequence[tuple[str, str]]
    ) -> Sequence[int]:
        """Ask an engine which places these requests have at its gate; nothing where it does not tell."""
        host, port, name = address
        url = f"{'https' if name else 'http'}://{f'[{host}]' if ':' in host else host}:{port}{PLACES}"
        grant = self._grants.use(requests[0][0], model, engine)
        try:
            async with self._session.post(
                url,
                data=msgspec.json.encode(PlacesRequest(requests=tuple(requests))),
                headers={GRANT_HEADER: grant, "Content-Type": "application/json"},
                timeout=PLACES_TIMEOUT,
                allow_redirects=False,
                ssl=self._tls[name].context("engine") if name else True,
                server_hostname=name or None,
            ) as response:
                if response.status != 200:
                    return ()
                told = await response.content.read(MAX_PLACES)
                return msgspec.json.decode(told, type=Places).places
        except (aiohttp.ClientError, HttpProcessingError, TimeoutError, OSError, *NOT_JSON):
            return ()
