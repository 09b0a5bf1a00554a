"""Tokens and grants that are good at `NOW`, and one way to open them."""

import base64
from typing import Any

from hubgate.wire import seal
from hubgate.wire.seal import LIFETIME, Grant, ScopedToken
from tests.fakes.keyring import Keyring

NOW = 1_790_000_000
CANARY = "hf_canary_4711"


def scoped(**claims: Any) -> ScopedToken:
    """A scoped token that is good at `NOW`, but for what is given."""
    good: dict[str, Any] = {
        "token": CANARY,
        "base": "demo/tiny-llama@" + "a" * 40,
        "adapter": None,
        "sub": "5" * 32,
        "aud": "gpu-0",
        "boot": "boot-1",
        "jti": "1" * 32,
        "iat": NOW,
        "exp": NOW + LIFETIME,
    }
    return ScopedToken(**{**good, **claims})


def grant(**claims: Any) -> Grant:
    """A grant that is good at `NOW`, but for what is given."""
    good: dict[str, Any] = {
        "kind": "use",
        "sub": "5" * 32,
        "model": "demo/tiny-llama@" + "a" * 40,
        "aud": "engine-1",
        "boot": "boot-1",
        "jti": "1" * 32,
        "iat": NOW,
        "exp": NOW + LIFETIME,
    }
    return Grant(**{**good, **claims})


def sealed(ring: Keyring, **claims: Any) -> str:
    return seal.seal_token(scoped(**claims), ring.proxy.signing, ring.backend_half.sealing)


def opened(ring: Keyring, value: str, now: float = NOW, aud: str = "gpu-0") -> ScopedToken:
    return seal.open_token(value, ring.backend.opening, ring.proxies, aud=aud, boot="boot-1", now=now)


def believed(ring: Keyring, value: str, now: float = NOW) -> Grant:
    return seal.verify_grant(value, ring.proxies, aud="engine-1", boot="boot-1", now=now)


def unpadded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def flipped(value: str, bit: int) -> str:
    """The same text, one bit of one character changed, still ASCII."""
    place, bit = divmod(bit % (len(value) * 7), 7)
    return value[:place] + chr(ord(value[place]) ^ (1 << bit)) + value[place + 1 :]
