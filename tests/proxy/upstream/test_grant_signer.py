"""Grants: made once per identity, model and engine, and reused for half of their life."""

import base64
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from hubgate.proxy.upstream.grant_signer import GrantSigner
from hubgate.wire.control_api import EngineInfo
from hubgate.wire.seal import CLAIMS, LIFETIME, verify_grant
from tests.fakes.clock import Clock
from tests.fakes.keyring import Keyring

ENGINE = EngineInfo(id="e-1", boot="b-1", port=1, base="a/b@c", state="ready")
OTHER = EngineInfo(id="e-2", boot="b-1", port=1, base="a/b@c", state="ready")
REBORN = EngineInfo(id="e-1", boot="b-2", port=1, base="a/b@c", state="ready")


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Keyring:
    return Keyring.make(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def made(ring: Keyring, clock: Clock) -> GrantSigner:
    own = ring.proxy
    return GrantSigner(lambda: own, clock)


def test_a_grant_says_who_may_use_what_where(made: GrantSigner, ring: Keyring, clock: Clock) -> None:
    """It names the pseudonym, the served model, the engine and its boot, for a minute."""
    grant = verify_grant(made.use("s", "a/b@c", ENGINE), ring.proxies, aud="e-1", boot="b-1", now=clock())
    assert (grant.kind, grant.sub, grant.model) == ("use", "s", "a/b@c")
    assert grant.exp - grant.iat == LIFETIME


def test_it_is_reused_for_half_of_its_life(made: GrantSigner, clock: Clock) -> None:
    """Signing is dear; a grant that is handed out always has half a minute left."""
    first = made.use("s", "a/b@c", ENGINE)
    clock.advance(LIFETIME / 2 - 0.1)
    assert made.use("s", "a/b@c", ENGINE) == first
    clock.advance(0.1)
    assert made.use("s", "a/b@c", ENGINE) != first


def test_none_is_reused_from_a_time_to_come(made: GrantSigner, clock: Clock) -> None:
    """A clock that was ahead is set back: what it signed is not believed for as long as it was ahead."""
    clock.advance(3600)
    first = made.use("s", "a/b@c", ENGINE)
    clock.advance(-3600)
    assert made.use("s", "a/b@c", ENGINE) != first


def test_each_identity_model_and_engine_has_its_own(made: GrantSigner) -> None:
    """A grant never stands for another caller, model, engine or boot."""
    cases = [
        ("s", "a/b@c", ENGINE),
        ("t", "a/b@c", ENGINE),
        ("s", "a/x@c", ENGINE),
        ("s", "a/b@c", OTHER),
        ("s", "a/b@c", REBORN),
    ]
    assert len({made.use(*case) for case in cases}) == len(cases)


def test_control_grants_are_never_reused(made: GrantSigner) -> None:
    """Each call of a control API has a grant of its own."""
    assert made.control("gpu-0", "")[0] != made.control("gpu-0", "")[0]


def test_memory_is_bounded(made: GrantSigner) -> None:
    """The oldest grants are forgotten beyond the capacity."""
    made._known.capacity = 3
    first = made.use("0", "a/b@c", ENGINE)
    for sub in ("1", "2", "3"):
        made.use(sub, "a/b@c", ENGINE)
    assert len(made._known) == 3
    assert made.use("0", "a/b@c", ENGINE) != first


def test_a_rotated_key_signs_the_next_grant(ring: Keyring, clock: Clock, tmp_path: Path) -> None:
    """When the key changes, what is signed from then on is signed with the new one."""
    newer = Keyring.make(tmp_path)
    keys = [ring.proxy, newer.proxy]
    made = GrantSigner(lambda: keys[0], clock)
    made.use("s", "a/b@c", ENGINE)
    keys.pop(0)
    clock.advance(LIFETIME / 2)
    verify_grant(made.use("s", "a/b@c", ENGINE), newer.proxies, aud="e-1", boot="b-1", now=clock())


def test_what_an_engine_does_not_read_is_not_in_its_grant(
    made: GrantSigner, ring: Keyring, clock: Clock
) -> None:
    """Of an older release it would refuse the whole grant; a newer one says what it reads."""
    newer = replace(ENGINE, id="e-3", claims=CLAIMS)
    told = verify_grant(
        made.use("s", "a/b@c", newer, 300, 5.0), ring.proxies, aud="e-3", boot="b-1", now=clock()
    )
    assert (told.weight, told.patience) == (300, 5.0)
    payload = made.use("s", "a/b@c", ENGINE, 300, 5.0).split(".")[1]
    assert msgspec.json.decode(base64.urlsafe_b64decode(payload + "==")).keys() == {
        "kind", "sub", "model", "aud", "boot", "jti", "iat", "exp",
    }  # fmt: skip


def test_a_weight_that_was_changed_holds_from_the_next_request_on(made: GrantSigner) -> None:
    """A grant with the old one is not reused."""
    newer = replace(ENGINE, claims=CLAIMS)
    assert made.use("s", "a/b@c", newer, 100) != made.use("s", "a/b@c", newer, 300)
