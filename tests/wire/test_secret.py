"""A secret leaves its wrapper through `reveal()` and in no other way."""

import copy
import logging
import os
import pickle
import traceback
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubgate.wire.secret import Secret
from tests.cases import each

CANARY = "hf_canary_4711"


@dataclass(frozen=True)
class _Holder:
    secret: Secret


@each(
    "show",
    [
        repr,
        str,
        format,
        lambda s: f"{s}",
        lambda s: f"{s!r:>30}",
        lambda s: f"{s:>30}",
        lambda s: "%s %r" % (s, s),  # noqa: UP031
        lambda s: repr([s]),
        lambda s: repr({"token": s}),
        lambda s: repr(_Holder(s)),
        lambda s: repr(vars(type(s))),
    ],
)
def test_no_way_of_formatting_shows_it(show: Callable[[Secret], str]) -> None:
    """Every way of making text of a secret gives stars."""
    assert CANARY not in show(Secret(CANARY))


def test_it_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A log line that is handed a secret shows stars."""
    logging.getLogger("test").warning("token %s", Secret(CANARY))
    assert "***" in caplog.text
    assert CANARY not in caplog.text


def test_it_is_not_in_a_traceback() -> None:
    """An error that a secret was part of does not quote it."""
    with pytest.raises(KeyError) as caught:
        os.environ[f"no such variable {Secret(CANARY)}"]
    assert CANARY not in "".join(traceback.format_exception(caught.value))


@each("keep", [pickle.dumps, copy.copy, copy.deepcopy])
def test_it_is_never_copied_or_pickled(keep: Callable[[Secret], object]) -> None:
    """A secret cannot be written to a disk or another process by accident."""
    with pytest.raises(TypeError):
        keep(Secret(CANARY))


def test_it_is_no_key_of_a_dict() -> None:
    """Caches cannot keep secrets as keys."""
    with pytest.raises(TypeError, match="never a key"):
        hash(Secret(CANARY))


def test_it_has_no_dict() -> None:
    """`vars()` of a secret finds nothing."""
    assert not hasattr(Secret(CANARY), "__dict__")


@given(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")))
def test_equality_is_that_of_the_text(one: str, other: str) -> None:
    """Two secrets are equal if their whole texts are."""
    assert (Secret(one) == Secret(other)) == (one == other)
    assert Secret(one).reveal() == one
    assert (Secret(one) == one) is False


def test_a_digest_is_that_of_its_key() -> None:
    """Whichever key was asked for before, an empty one included."""
    secret, keys = Secret("hf_one"), (b"", b"first", b"second", b"second", b"first")
    assert [secret.digest(key) for key in keys] == [Secret("hf_one").digest(key) for key in keys]
    assert len({secret.digest(key) for key in keys}) == 3


def test_a_digest_is_made_once() -> None:
    """The same object for the same key, and nothing is computed for it."""
    secret = Secret("hf_one")
    assert secret.digest(b"key") is secret.digest(b"key")


@each("digest", [Secret.digest, Secret.hmac])
@given(st.text("ab_", min_size=1, max_size=64), st.binary(min_size=32, max_size=32))
def test_digests_rest_on_the_whole_secret(
    digest: Callable[[Secret, bytes], bytes], text: str, key: bytes
) -> None:
    """Tokens that differ in their last character alone have different digests (CVE-2026-35030)."""
    found = digest(Secret(text), key)
    assert len(found) == 32
    assert found != digest(Secret(text + "a"), key)
    assert found != digest(Secret(text[:-1] + "c"), key)
    assert found != digest(Secret(text), bytes(32 - len(key)) + key[::-1] + b"x")


def test_what_names_are_derived_from_is_an_hmac() -> None:
    """RFC 4231, test case 2: names must be the same on every proxy, and in every version of it."""
    expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert Secret("what do ya want for nothing?").hmac(b"Jefe").hex() == expected


def test_what_is_shown_instead() -> None:
    """Three stars, however it is formatted: they tell neither the length nor any character."""
    secret = Secret(CANARY)
    assert (repr(secret), str(secret), f"{secret:>30}") == ("***", "***", "***")
