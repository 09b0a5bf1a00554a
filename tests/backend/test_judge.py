"""Which grants an engine believes."""

from pathlib import Path
from typing import Any

import pytest

from backend.plugin import judge as judging
from tests.backend.engine_identity import Engine
from tests.fakes.clock import Clock
from wire import keys
from wire.seal import LEEWAY, LIFETIME


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(tmp_path, Clock())


def test_a_proxys_grant_is_believed_until_it_ends(engine: Engine) -> None:
    """Verified once, remembered, and forgotten in time."""
    judge, value = engine.judge(), engine.grant()
    first = judge.believe(value)
    assert first is not None
    assert judge.believe(value) is first
    engine.clock.advance(LIFETIME + LEEWAY + 1)
    assert judge.believe(value) is None


def test_a_proxy_uses_and_the_supervisor_commands(engine: Engine) -> None:
    """Neither may do what is the other's: THREATS row 45 keeps a stolen proxy key from the controls."""
    judge = engine.judge()
    assert judge.believe(engine.command()) is not None
    assert judge.believe(engine.grant(kind="control", model="")) is None
    assert judge.believe(engine.grant(signing=engine.supervisor)) is None


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
    assert engine.judge().believe(engine.grant(**changes)) is None


def test_a_stranger_is_not_believed(engine: Engine, tmp_path: Path) -> None:
    """Only the keys in the file count."""
    other = Engine(tmp_path / "other", engine.clock)
    assert engine.judge().believe(engine.grant(signing=other.keyring.proxy.signing)) is None


@pytest.mark.parametrize("value", ["", "x", "a.b.c", "é", "." * 20_000])
def test_nonsense_is_not_believed(engine: Engine, value: str) -> None:
    """Whatever stands in the header, the answer is no."""
    assert engine.judge().believe(value) is None


def test_a_flipped_bit_is_not_believed(engine: Engine) -> None:
    """Every part of the value is signed."""
    judge, value = engine.judge(), engine.grant()
    for at in range(0, len(value), 7):
        other = "A" if value[at] != "A" else "B"
        assert judge.believe(value[:at] + other + value[at + 1 :]) is None


def test_a_withdrawn_key_is_not_believed_any_more(engine: Engine, tmp_path: Path) -> None:
    """Rotation needs no restart, and what was remembered of the old key goes with it."""
    judge, value = engine.judge(), engine.grant()
    assert judge.believe(value) is not None
    new, public = keys.generate_proxy(tmp_path / "new")
    engine.keyring.proxy_public.write_bytes(public.read_bytes())
    engine.clock.advance(2)
    assert judge.believe(value) is None
    assert judge.believe(engine.grant(signing=keys.load_proxy_keys(new).signing)) is not None


def test_memory_is_bounded(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many grants there are, and each is still believed."""
    monkeypatch.setattr(judging, "CAPACITY", 4)
    judge = engine.judge()
    for number in range(20):
        assert judge.believe(engine.grant(jti=str(number))) is not None
        assert len(judge._believed) <= 4
