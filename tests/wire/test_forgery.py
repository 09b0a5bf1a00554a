"""Who can make what: nobody forges a token, a grant or a hello with what is not theirs."""

import hmac

import msgspec
import pytest
from joserfc import jwe
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from hubgate.wire import seal
from hubgate.wire.seal import SealError
from tests.fakes.keyring import Keyring
from tests.wire.tokens import believed, grant, opened, scoped, unpadded


def test_only_its_backend_can_open(ring: Keyring, stranger: Keyring) -> None:
    """A token that was sealed for another backend cannot be opened, whatever it says inside."""
    other = seal.seal_token(scoped(), ring.proxy.signing, stranger.backend_half.sealing)
    with pytest.raises(SealError, match="undecipherable"):
        opened(ring, other)


def test_anyone_can_seal_but_only_the_proxy_is_believed(ring: Keyring, stranger: Keyring) -> None:
    """A token that a stranger signed, or nobody, is refused although it can be opened."""
    with pytest.raises(SealError, match="bad_signature"):
        opened(ring, seal.seal_token(scoped(), stranger.proxy.signing, ring.backend_half.sealing))
    header = {"alg": "ECDH-ES", "enc": "A256GCM"}
    bare = msgspec.json.encode(scoped())
    unsigned = jwe.encrypt_compact(header, bare, ring.backend_half.sealing, algorithms=["ECDH-ES", "A256GCM"])
    with pytest.raises(SealError, match="bad_signature"):
        opened(ring, unsigned)


def test_a_stolen_verifying_side_cannot_sign(ring: Keyring) -> None:
    """Nothing is believed that was made with the public half: not as a key, not as an HMAC secret."""
    public = ring.proxies.keys[0]
    assert isinstance(public, OKPKey)
    with pytest.raises(JoseError):
        seal.sign_grant(grant(), public)
    header = {"alg": "HS256", "kid": public.kid, "typ": "hubgate-grant"}
    signed = f"{unpadded(msgspec.json.encode(header))}.{unpadded(msgspec.json.encode(grant()))}"
    for secret in (public.as_bytes(), msgspec.json.encode(public.as_dict(private=False))):
        mac = hmac.digest(secret, signed.encode(), "sha256")  # RFC 8725, section 2.1
        with pytest.raises(SealError, match="bad_signature"):
            believed(ring, f"{signed}.{unpadded(mac)}")


def test_a_backends_key_makes_no_grant(ring: Keyring) -> None:
    """A grant that is signed with the backend's own key is not believed by its engines."""
    with pytest.raises(SealError, match="bad_signature"):
        believed(ring, seal.sign_grant(grant(), ring.backend.signing))


def test_kinds_do_not_stand_for_one_another(ring: Keyring) -> None:
    """A hello or a scoped token is no grant, and the reverse, though one key signed them."""
    signing = ring.proxy.signing
    hello = seal.sign_hello(msgspec.json.encode(grant()), signing)
    with pytest.raises(SealError, match="wrong_type"):
        believed(ring, hello)
    with pytest.raises(SealError, match="wrong_type"):
        seal.verify_hello(seal.sign_grant(grant(), signing).encode(), ring.proxies)
    header = {"alg": "ECDH-ES", "enc": "A256GCM"}
    as_token = seal.sign_grant(grant(), signing).encode()
    wrapped = jwe.encrypt_compact(
        header, as_token, ring.backend_half.sealing, algorithms=["ECDH-ES", "A256GCM"]
    )
    with pytest.raises(SealError, match="wrong_type"):
        opened(ring, wrapped)
