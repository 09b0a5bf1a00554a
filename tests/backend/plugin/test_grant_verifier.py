"""Which grants an engine believes."""

from pathlib import Path
from typing import Any

import pytest

from hubgate.wire import keygen, keys
from hubgate.wire.seal import LEEWAY, LIFETIME
from tests.backend.plugin.engine_identity import Engine
from tests.fakes.clock import Clock


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(tmp_path, Clock())


def test_a_proxys_grant_is_believed_until_it_ends(engine: Engine) -> None:
    """Verified once, remembered, and forgotten in time."""
    verifier, value = engine.verifier(), engine.grant()
    first = verifier.believe(value)
    assert first is not None
    assert verifier.believe(value) is first
    engine.clock.advance(LIFETIME + LEEWAY + 1)
    assert verifier.believe(value) is None


def test_a_proxy_uses_and_the_supervisor_commands(engine: Engine) -> None:
    """Neither may do what is the other's: a stolen proxy key opens no controls (threats.md, row 45)."""
    verifier = engine.verifier()
    assert verifier.believe(engine.command()) is not None
    assert verifier.believe(engine.grant(kind="control", model="")) is None
    assert verifier.believe(engine.grant(signing=engine.supervisor)) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "gpu-0/1"},
        {"aud": "gpu-0"},
        {"boot": "boot-0"},
        {"boot": ""},
        {"iat": 0, "exp": 60},
        {"exp": 2**40},
    ],
)
def test_grants_for_others_are_not_believed(engine: Engine, changes: dict[str, Any]) -> None:
    """Another engine's, another boot's, an old one, one that would never end."""
    assert engine.verifier().believe(engine.grant(**changes)) is None


def test_a_stranger_is_not_believed(engine: Engine, tmp_path: Path) -> None:
    """Only the keys in the file count."""
    other = Engine(tmp_path / "other", engine.clock)
    assert engine.verifier().believe(engine.grant(signing=other.keyring.proxy.signing)) is None


@pytest.mark.parametrize("value", ["", "x", "a.b.c", "é", "." * 20_000])
def test_nonsense_is_not_believed(engine: Engine, value: str) -> None:
    """Whatever stands in the header, the answer is no."""
    assert engine.verifier().believe(value) is None


def test_a_flipped_bit_is_not_believed(engine: Engine) -> None:
    """Every part of the value is signed."""
    verifier, value = engine.verifier(), engine.grant()
    for at in range(0, len(value), 7):
        other = "A" if value[at] != "A" else "B"
        assert verifier.believe(value[:at] + other + value[at + 1 :]) is None


def test_a_withdrawn_key_is_not_believed_any_more(engine: Engine, tmp_path: Path) -> None:
    """Rotation needs no restart, and what was remembered of the old key goes with it."""
    verifier, value = engine.verifier(), engine.grant()
    assert verifier.believe(value) is not None
    new, public = keygen.generate_proxy(tmp_path / "new")
    engine.keyring.proxy_public.write_bytes(public.read_bytes())
    engine.clock.advance(2)
    assert verifier.believe(value) is None
    assert verifier.believe(engine.grant(signing=keys.load_proxy_keys(new).signing)) is not None


def test_memory_is_bounded(engine: Engine) -> None:
    """However many grants there are, and each is still believed."""
    verifier = engine.verifier()
    verifier._believed.capacity = 4
    for number in range(20):
        assert verifier.believe(engine.grant(jti=str(number))) is not None
        assert len(verifier._believed) <= 4
