"""Scoped tokens, grants and hellos: believed in one place, for one minute, by one signature."""

import base64
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwe, jws
from joserfc.jwk import KeySet

from hubgate.wire import seal
from hubgate.wire.seal import LEEWAY, LIFETIME, MAX_SEALED, SealError
from tests.cases import each
from tests.fakes.keyring import Keyring
from tests.wire.tokens import CANARY, NOW, believed, flipped, grant, opened, scoped, sealed, unpadded


def test_what_was_sealed_is_what_is_opened(ring: Keyring) -> None:
    """The backend gets every claim as the proxy wrote it."""
    assert opened(ring, sealed(ring, adapter="a/b@" + "c" * 40)) == scoped(adapter="a/b@" + "c" * 40)


def test_a_sealed_token_shows_nothing(ring: Keyring) -> None:
    """Neither the sealed form nor the repr of the opened one holds the caller's token."""
    value = sealed(ring)
    for part in value.split("."):
        assert CANARY.encode() not in base64.urlsafe_b64decode(part + "==")
    token = opened(ring, value)
    assert CANARY not in repr(token)
    assert CANARY not in str(token.secret())
    assert token.secret().reveal() == CANARY


@given(bit=st.integers(0, 10**6))
def test_any_flipped_bit_of_a_sealed_token_is_noticed(ring: Keyring, bit: int) -> None:
    """One changed bit anywhere makes a sealed token worthless, or leaves its bytes what they were."""
    with suppress(SealError):  # else only padding bits at the end of base64 were hit, which carry nothing
        assert opened(ring, flipped(sealed(ring), bit)) == scoped()


@given(bit=st.integers(0, 10**6))
def test_any_flipped_bit_of_a_grant_is_noticed(ring: Keyring, bit: int) -> None:
    """One changed bit anywhere makes a grant worthless, or leaves its claims what they were."""
    value = seal.sign_grant(grant(), ring.proxy.signing)
    with suppress(SealError):
        assert believed(ring, flipped(value, bit)) == grant()


@given(st.text(max_size=300) | st.lists(st.text("AZaz09-_", max_size=40), max_size=6).map(".".join))
def test_garbage_is_refused_in_one_way(ring: Keyring, text: str) -> None:
    """Whatever comes in place of a grant or a token, the error is a `SealError` that does not quote it."""
    for check in (believed, opened):
        with pytest.raises(SealError) as caught:
            check(ring, text)
        assert caught.value.reason in {"bad_signature", "malformed", "undecipherable"}
        assert caught.value.__suppress_context__ or caught.value.__context__ is None
    with pytest.raises(SealError):
        seal.verify_hello(text.encode("utf-8", "surrogatepass"), ring.backend_half.verifying)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
headers = st.dictionaries(
    st.sampled_from(["alg", "enc", "kid", "typ", "epk", "zip", "crit", "b64", "jwk", "apu", "p2c"]),
    json_values
    | st.sampled_from(["Ed25519", "EdDSA", "none", "HS256", "ECDH-ES", "dir", "A256GCM", "DEF", ["b64"]])
    | st.sampled_from([{"kty": "OKP", "crv": "X25519", "x": "A" * 43}, {"kty": "EC", "crv": "P-256"}])
    | st.just({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}),
)


@given(header=headers)
def test_hostile_headers_are_refused_in_one_way(ring: Keyring, header: dict[str, Any]) -> None:
    """Whatever the protected header says, an unsigned or unopenable token is a `SealError`."""
    first = unpadded(msgspec.json.encode(header))
    with pytest.raises(SealError):
        believed(ring, ".".join([first, *seal.sign_grant(grant(), ring.proxy.signing).split(".")[1:]]))
    with pytest.raises(SealError):
        opened(ring, ".".join([first, *sealed(ring).split(".")[1:]]))


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"aud": "gpu-1"}, "wrong_audience"),
        ({"aud": ""}, "wrong_audience"),
        ({"boot": "boot-0"}, "old_boot"),
        ({"boot": ""}, "old_boot"),
        ({"iat": NOW + LEEWAY + 1, "exp": NOW + LEEWAY + 10}, "from_the_future"),
        ({"iat": NOW - 100, "exp": NOW - LEEWAY - 1}, "expired"),
        ({"exp": NOW + LIFETIME + 1}, "expired"),
        ({"iat": 0}, "expired"),
        ({"iat": NOW, "exp": 0}, "expired"),
        ({"iat": -(2**62), "exp": 2**62}, "expired"),
    ],
)
def test_wrong_claims_are_refused(ring: Keyring, claims: dict[str, Any], reason: str) -> None:
    """Another audience, another boot and another time are each refused with their reason."""
    with pytest.raises(SealError, match=f"^{reason}$"):
        opened(ring, sealed(ring, **claims))
    grants = {**claims, "aud": "engine-2"} if "aud" in claims else claims
    with pytest.raises(SealError, match=f"^{reason}$"):
        believed(ring, seal.sign_grant(grant(**grants), ring.proxy.signing))


@given(skew=st.floats(-500, 500), life=st.integers(1, 500))
def test_a_minute_and_the_leeway_are_the_limit(ring: Keyring, skew: float, life: int) -> None:
    """A grant counts from 5 s before it was made to 5 s after it ends, and for a minute at most."""
    value = seal.sign_grant(grant(exp=NOW + life), ring.proxy.signing)
    good = life <= LIFETIME and -LEEWAY <= skew <= life + LEEWAY
    try:
        believed(ring, value, NOW + skew)
    except SealError:
        assert not good
    else:
        assert good


@pytest.mark.parametrize("extra", [{"more": 1}, {"iat": "soon"}, {"kind": "admin"}, {"sub": None}])
def test_claims_are_parsed_strictly(ring: Keyring, extra: dict[str, Any]) -> None:
    """Unknown, missing or mistyped claims are refused even under a good signature."""
    payload = msgspec.json.encode({**msgspec.to_builtins(grant()), **extra})
    header = {"alg": "Ed25519", "typ": "hubgate-grant"}
    with pytest.raises(SealError, match=r"^malformed$"):
        believed(ring, jws.serialize_compact(header, payload, ring.proxy.signing, ["Ed25519"]))


@pytest.mark.parametrize(
    "text", ["x" * (MAX_SEALED + 1), "é", "a\udcff", "hf\N{LATIN SMALL LETTER U WITH GRAVE}"]
)
def test_long_or_odd_text_is_not_looked_at(ring: Keyring, text: str) -> None:
    """Over-long text and text that no header can carry is refused before any cryptography."""
    with pytest.raises(SealError, match=r"^malformed$"):
        believed(ring, text)
    with pytest.raises(SealError):
        opened(ring, text)


def test_every_proxy_of_the_set_is_believed(ring: Keyring, stranger: Keyring) -> None:
    """Keys of several proxies, and old and new ones, count side by side."""
    both = KeySet([*ring.proxies.keys, *stranger.proxies.keys])
    for signing in (ring.proxy.signing, stranger.proxy.signing):
        value = seal.sign_grant(grant(), signing)
        assert seal.verify_grant(value, both, aud="engine-1", boot="boot-1", now=NOW) == grant()


def test_control_grants_are_fresh(ring: Keyring) -> None:
    """Each control grant has an id of its own, which a hello has to repeat."""
    made = [seal.control_grant(ring.proxy.signing, aud="engine-1", boot="boot-1", now=NOW) for _ in range(5)]
    assert len({jti for _, jti in made}) == 5
    for value, jti in made:
        found = believed(ring, value)
        assert (found.kind, found.jti, found.model, found.sub) == ("control", jti, "", "")


def _header(value: str) -> dict[str, Any]:
    return dict(msgspec.json.decode(base64.urlsafe_b64decode(value.split(".", maxsplit=1)[0] + "==")))


def test_the_headers_of_version_1(ring: Keyring) -> None:
    """What is signed names its key and its kind, so that a release beside this one believes it."""
    signing, backend = ring.proxy.signing, ring.backend.signing
    assert _header(seal.sign_grant(grant(), signing)) == {
        "alg": "Ed25519", "kid": signing.kid, "typ": "hubgate-grant",
    }  # fmt: skip
    assert _header(seal.sign_hello(b"{}", backend)) == {
        "alg": "Ed25519", "kid": backend.kid, "typ": "hubgate-hello",
    }  # fmt: skip
    sealing = ring.backend_half.sealing
    value = sealed(ring)
    header = _header(value)
    del header["epk"]  # a fresh one each time
    assert header == {"alg": "ECDH-ES", "enc": "A256GCM", "kid": sealing.kid}
    inner = jwe.decrypt_compact(value, ring.backend.opening, algorithms=["ECDH-ES", "A256GCM"]).plaintext
    assert _header((inner or b"").decode()) == {"alg": "Ed25519", "kid": signing.kid, "typ": "hubgate-token"}


def test_how_long_anything_counts(ring: Keyring) -> None:
    """A control grant is good for a minute, give or take five seconds of skew; 16 KiB are read."""
    assert (LIFETIME, LEEWAY, MAX_SEALED) == (60, 5, 16 * 1024)
    value, jti = seal.control_grant(ring.proxy.signing, aud="engine-1", boot="boot-1", now=NOW + 0.9)
    found = believed(ring, value)
    assert (found.iat, found.exp, len(jti)) == (NOW, NOW + 60, 32)


def test_text_of_the_greatest_length_is_looked_at(ring: Keyring) -> None:
    """The bound is the last length that is read."""
    with pytest.raises(SealError, match="bad_signature"):
        believed(ring, "x" * MAX_SEALED)
    with pytest.raises(SealError, match="undecipherable"):
        opened(ring, "x" * MAX_SEALED)
    with pytest.raises(SealError, match=r"^malformed$"):
        opened(ring, "x" * (MAX_SEALED + 1))


def test_one_kind_never_stands_for_another(ring: Keyring) -> None:
    """A grant is no hello and no token, though the same key signed it."""
    signing = ring.proxy.signing
    with pytest.raises(SealError, match=r"^wrong_type$"):
        seal.verify_hello(seal.sign_grant(grant(), signing).encode(), ring.proxies)
    with pytest.raises(SealError, match=r"^wrong_type$"):
        believed(ring, seal.sign_hello(msgspec.json.encode(grant()), signing))
    inner = seal.sign_grant(grant(), signing).encode()
    header = {"alg": "ECDH-ES", "enc": "A256GCM"}
    value = jwe.encrypt_compact(header, inner, ring.backend_half.sealing, algorithms=["ECDH-ES", "A256GCM"])
    with pytest.raises(SealError, match=r"^wrong_type$"):
        opened(ring, value)


def test_the_repr_tells_what_and_not_whose(ring: Keyring) -> None:
    """What the audit may need to tell tokens apart is shown, and nothing else."""
    shown = repr(scoped(adapter="a/b@1"))
    assert shown == f"ScopedToken(base='demo/tiny-llama@{'a' * 40}', adapter='a/b@1', jti='{'1' * 32}')"


@pytest.mark.parametrize("now", [NOW - 5, NOW + 65])
def test_the_last_moments_count(ring: Keyring, now: float) -> None:
    """Exactly five seconds before its time, and after it, a grant and a token are still believed."""
    assert believed(ring, seal.sign_grant(grant(), ring.proxy.signing), now) == grant()
    assert opened(ring, sealed(ring), now) == scoped()


def test_a_token_with_a_claim_too_many_is_refused(ring: Keyring) -> None:
    """What its reader does not know may be a bound that it would break."""
    header = {"alg": "Ed25519", "typ": "hubgate-token"}
    payload = msgspec.json.encode({**msgspec.to_builtins(scoped()), "only_once": True})
    inner = jws.serialize_compact(header, payload, ring.proxy.signing, ["Ed25519"]).encode()
    outer = {"alg": "ECDH-ES", "enc": "A256GCM"}
    value = jwe.encrypt_compact(outer, inner, ring.backend_half.sealing, algorithms=["ECDH-ES", "A256GCM"])
    with pytest.raises(SealError, match=r"^malformed$"):
        opened(ring, value)


def test_a_hello_is_read_as_it_was_signed(ring: Keyring) -> None:
    """What comes out is the bytes that went in; the reason of a refusal is its text as well."""
    value = seal.sign_hello(b"{}", ring.backend.signing).encode()
    assert seal.verify_hello(value, ring.backend_half.verifying) == b"{}"
    with pytest.raises(SealError) as caught:
        seal.verify_hello(value, ring.proxies)
    assert caught.value.reason == str(caught.value) == "bad_signature"


def test_an_optional_claim_is_written_where_it_says_something(ring: Keyring) -> None:
    """An engine of the release before refuses a grant with a claim that it does not know, and gets none."""
    plain = {"kind", "sub", "model", "aud", "boot", "jti", "iat", "exp"}
    assert set(seal.CLAIMS) == {field.name for field in msgspec.structs.fields(seal.Grant)} - plain
    for claims in ({}, {"weight": 300}, {"patience": 5.0}, {"weight": 1, "patience": 0.5}):
        made = msgspec.structs.replace(grant(), **claims)
        value = seal.sign_grant(made, ring.proxy.signing)
        payload = msgspec.json.decode(base64.urlsafe_b64decode(value.split(".")[1] + "=="))
        assert payload.keys() == plain | claims.keys()
        assert believed(ring, value) == made


def test_an_optional_claim_that_is_not_there(ring: Keyring) -> None:
    """A grant of the release before has the weight of anybody, and does not wait."""
    found = believed(ring, seal.sign_grant(grant(), ring.proxy.signing))
    assert (found.weight, found.patience) == (100, None)


@each("weight", [1, 10_000])
def test_the_least_and_the_greatest_weight(ring: Keyring, weight: int) -> None:
    """Those of a cgroup's `cpu.weight`."""
    made = msgspec.structs.replace(grant(), weight=weight)
    assert believed(ring, seal.sign_grant(made, ring.proxy.signing)).weight == weight


@each("claims", [{"weight": 0}, {"weight": 10_001}, {"weight": 1.5}, {"patience": 0}, {"patience": -1.0}])
def test_no_claim_is_beyond_its_bounds(ring: Keyring, claims: dict[str, float]) -> None:
    """Whoever signs it."""
    made = msgspec.structs.replace(grant(), **claims)
    with pytest.raises(SealError, match="malformed"):
        believed(ring, seal.sign_grant(made, ring.proxy.signing))
