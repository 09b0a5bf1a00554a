"""The scoped token and the grant: what a proxy hands to a backend and to its engines.

Both are asymmetric, so a thief of the verifying side can make neither.

* Scoped token: a JWS (RFC 7515, Ed25519) inside a JWE (RFC 7516, ECDH-ES on X25519, A256GCM).
* Grant, hello: a JWS (Ed25519). The `typ` header keeps one from being used as another.

Times are whole seconds since the epoch, as in RFC 7519.
"""

import secrets
from collections import OrderedDict
from collections.abc import Callable
from typing import Annotated, Final, Literal, TypeVar

import msgspec
from joserfc import jwe, jws
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, OKPKey

from hubgate.wire.secret import Secret

LIFETIME = 60  # seconds; bounds acceptance, not how long what was accepted may take
LEEWAY = 5  # seconds of clock difference that is forgiven, both ways
MAX_SEALED = 16 * 1024  # bytes; a scoped token is about 1.5 KiB

_SIGN = ["Ed25519"]
_SEAL = ["ECDH-ES", "A256GCM"]


class SealError(Exception):
    """A token, grant or hello is not to be believed; `reason` is one word for the audit."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ScopedToken(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A caller's Hub token, narrowed to named repos at exact shas, one backend and one boot of it."""

    token: str
    base: str  # org/name@sha
    adapter: str | None  # org/name@sha
    sub: str  # pseudonym of the caller, never their name
    aud: str  # the backend's name
    boot: str  # the backend's boot id
    jti: str
    iat: int
    exp: int

    def __repr__(self) -> str:
        return f"ScopedToken(base={self.base!r}, adapter={self.adapter!r}, jti={self.jti!r})"

    def secret(self) -> Secret:
        """The caller's token, wrapped again."""
        return Secret(self.token)


class Grant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Leave for one caller to use one model on one engine; or, kind `control`, to command it.

    Claims with a default are for engines that say that they read them (`EngineInfo.claims`). Older ones
    refuse a grant with a claim that they do not know; they get none, since a default is not written.
    """

    kind: Literal["use", "control"]
    sub: str
    model: str  # the served name, org/name@sha; "" for control
    aud: str  # engine id, or the backend's name for its control API
    boot: str  # boot id of that engine; "" only in a hello's control grant, which asks for it
    jti: str
    iat: int
    exp: int
    weight: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 100  # of the caller's share, as of a cgroup
    patience: Annotated[float, msgspec.Meta(gt=0)] | None = None  # seconds to wait for it; None: as it comes


CLAIMS: Final = ("weight", "patience")  # the optional ones of a grant

Payload = TypeVar("Payload", ScopedToken, Grant)


def seal_token(token: ScopedToken, signing: OKPKey, sealing: OKPKey) -> str:
    """Sign with the proxy's key, then encrypt so that only that backend can open it."""
    signed = _sign(msgspec.json.encode(token), signing, "hubgate-token")
    header = {"alg": "ECDH-ES", "enc": "A256GCM", "kid": sealing.kid}
    return jwe.encrypt_compact(header, signed.encode(), sealing, algorithms=_SEAL)


def open_token(
    sealed: str, opening: KeySet, proxies: KeySet, *, aud: str, boot: str, now: float
) -> ScopedToken:
    """Open and check a scoped token, all but its replay (see `ReplayGuard`). Raises `SealError`."""
    if len(sealed) > MAX_SEALED:
        raise SealError("malformed")
    try:
        signed = jwe.decrypt_compact(sealed, opening, algorithms=_SEAL).plaintext
    except (JoseError, ValueError, TypeError, KeyError):  # KeyError: an ephemeral key of another curve
        # The cause may quote what it could not read.
        raise SealError("undecipherable") from None
    token = _decode(_verify(signed or b"", proxies, "hubgate-token"), ScopedToken)
    _check(token, aud=aud, boot=boot, now=now)
    return token


def sign_grant(grant: Grant, signing: OKPKey) -> str:
    """Make the value of the `X-Hubgate-Grant` header."""
    return _sign(msgspec.json.encode(grant), signing, "hubgate-grant")


def verify_grant(value: str, keys: KeySet, *, aud: str, boot: str, now: float) -> Grant:
    """Check a grant's signature, audience and age. Raises `SealError`."""
    if len(value) > MAX_SEALED or not value.isascii():
        raise SealError("malformed")
    grant = _decode(_verify(value.encode(), keys, "hubgate-grant"), Grant)
    _check(grant, aud=aud, boot=boot, now=now)
    return grant


def sign_hello(hello: bytes, signing: OKPKey) -> str:
    """Sign what a backend says of itself; freshness is the caller's nonce inside."""
    return _sign(hello, signing, "hubgate-hello")


def verify_hello(value: bytes, keys: KeySet) -> bytes:
    """The payload of a hello that the backend's key signed. Raises `SealError`."""
    return _verify(value, keys, "hubgate-hello")


def control_grant(signing: OKPKey, *, aud: str, boot: str, now: float) -> tuple[str, str]:
    """A fresh control grant and its `jti`, which a hello repeats as its nonce."""
    jti = secrets.token_hex(16)
    grant = Grant(
        kind="control", sub="", model="", aud=aud, boot=boot, jti=jti, iat=int(now), exp=int(now) + LIFETIME
    )
    return sign_grant(grant, signing), jti


class ReplayGuard:
    """Remembers the ids that were used until they expire. Full means refuse: it never forgets early."""

    def __init__(self, capacity: int, clock: Callable[[], float]) -> None:
        self._capacity = capacity
        self._clock = clock
        self._expiry: OrderedDict[str, float] = OrderedDict()

    def use(self, jti: str, exp: int) -> None:
        """Spend an id. Raises `SealError` if it was spent before or there is no room to remember."""
        now = self._clock()
        if len(self._expiry) >= self._capacity:
            live = [(seen, until) for seen, until in self._expiry.items() if until >= now]
            self._expiry = OrderedDict(live)
        if jti in self._expiry:
            raise SealError("replayed")
        if len(self._expiry) >= self._capacity:
            raise SealError("replay_memory_full")
        self._expiry[jti] = exp + LEEWAY


def _sign(payload: bytes, signing: OKPKey, typ: str) -> str:
    return jws.serialize_compact({"alg": "Ed25519", "kid": signing.kid, "typ": typ}, payload, signing, _SIGN)


def _verify(value: bytes, keys: KeySet, typ: str) -> bytes:
    try:
        signed = jws.deserialize_compact(value, keys, _SIGN)
    except (JoseError, ValueError, TypeError):
        raise SealError("bad_signature") from None
    if signed.protected.get("typ") != typ:
        raise SealError("wrong_type")
    return signed.payload


def _decode(payload: bytes, kind: type[Payload]) -> Payload:
    try:
        return msgspec.json.decode(payload, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise SealError("malformed") from None


def _check(claims: ScopedToken | Grant, *, aud: str, boot: str, now: float) -> None:
    if claims.aud != aud:
        raise SealError("wrong_audience")
    if claims.boot != boot:
        raise SealError("old_boot")
    if claims.iat > now + LEEWAY:
        raise SealError("from_the_future")
    if claims.exp - claims.iat > LIFETIME or claims.exp + LEEWAY < now:
        raise SealError("expired")
