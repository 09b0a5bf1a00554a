"""Configuration: strict, every fault at once, and never a value in a message."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import Field, PositiveFloat

from hubgate.runtime.config import ConfigError, Section, Settings, load

CANARY = "hf_canary_4711"


class _Engine(Section):
    name: str
    timeout: PositiveFloat = 5


class _Example(Settings):
    engine: _Engine
    names: frozenset[str] = frozenset()
    engines: tuple[_Engine, ...] = ()
    port: int = Field(default=80, ge=1, le=65535)


def write(folder: Path, text: str | bytes) -> Path:
    """A configuration file."""
    path = folder / "example.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def faults(path: Path) -> list[str]:
    """The faults of a file that cannot be used."""
    with pytest.raises(ConfigError) as caught:
        load(_Example, path)
    assert caught.value.faults
    return caught.value.faults


def test_a_good_file_is_read(tmp_path: Path) -> None:
    """Values come from the file, and defaults where it is silent."""
    found = load(_Example, write(tmp_path, "engine: {name: a, timeout: 2}\nnames: [x, y]\n"))
    assert (found.engine.name, found.engine.timeout, found.port) == ("a", 2, 80)
    assert found.names == {"x", "y"}


def test_nothing_changes_afterwards(tmp_path: Path) -> None:
    """A loaded configuration is frozen, its parts too."""
    found = load(_Example, write(tmp_path, "engine: {name: a}\n"))
    for part, key in ((found, "port"), (found.engine, "name")):
        with pytest.raises(ValueError, match="frozen"):
            setattr(part, key, 1)


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    """Every fault is named by its path: missing, unknown, mistyped and out of range together."""
    text = f"""
engine: {{timeout: {CANARY}, typo: {CANARY}}}
engines: [{{name: ok}}, {{name: [{CANARY}]}}]
port: 99999
surprise: {CANARY}
"""
    found = faults(write(tmp_path, text))
    assert {fault.partition(":")[0] for fault in found} == {
        "engine.name",
        "engine.timeout",
        "engine.typo",
        "engines.1.name",
        "port",
        "surprise",
    }
    assert CANARY not in "".join(found)


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan", "0", "-1"])
def test_seconds_are_positive_and_end(tmp_path: Path, value: str) -> None:
    """No time is endless, none is nothing: 0 never means for ever."""
    found = faults(write(tmp_path, f"engine: {{name: a, timeout: {value}}}\n"))
    assert found[0].startswith("engine.timeout:")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "engine: is missing"),
        ("# nothing\n", "engine: is missing"),
        ("- a\n", "must be a mapping"),
        (CANARY, "must be a mapping"),
        ("5: a\n", "must be a mapping"),
        ("engine: [\n", "is not YAML at line"),
        (f"a: {CANARY}\n---\nb: 1\n", "is not YAML"),
        (f"a: !!python/object/apply:os.system ['{CANARY}']\n", "is not YAML"),
        (f"a: '\0{CANARY}'\n", "is not YAML"),
        (b"\xff\xfe\x00", "is not YAML"),
        ("a: " + "[" * 5000, "is not YAML"),
        (f"? [a, b]\n: {CANARY}\n", "is not YAML"),
    ],
)
def test_files_that_are_no_configuration(tmp_path: Path, text: str | bytes, says: str) -> None:
    """Whatever the file holds, it is a fault that names the place and quotes nothing."""
    found = faults(write(tmp_path, text))
    assert says in found[0]
    assert CANARY not in "".join(found)


def test_a_missing_file_is_a_fault(tmp_path: Path) -> None:
    """A file that is not there is named."""
    assert "No such file" in faults(tmp_path / "nowhere.yaml")[0]
    assert "directory" in faults(tmp_path)[0]


@pytest.mark.parametrize(
    "text",
    [
        "engine: {name: a}\nengine: {name: b}\n",
        "engine: {name: a, name: b}\n",
        "engine: {name: a}\n'engine': 1\n",
    ],
)
def test_a_key_that_stands_twice_is_a_fault(tmp_path: Path, text: str) -> None:
    """YAML would silently take the last one."""
    assert "stands twice" in faults(write(tmp_path, text))[0]


def test_anchors_and_merges_are_yaml_too(tmp_path: Path) -> None:
    """`<<` fills in what a mapping does not say itself."""
    text = "engine: &one {name: a, timeout: 2}\nengines: [{<<: *one, name: b}]\n"
    found = load(_Example, write(tmp_path, text))
    assert (found.engines[0].name, found.engines[0].timeout) == ("b", 2)


def test_the_environment_overrides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A nested override changes its key alone; lists and mappings are JSON."""
    monkeypatch.setenv("HUBGATE_ENGINE__TIMEOUT", "9")
    monkeypatch.setenv("HUBGATE_NAMES", '["z"]')
    found = load(_Example, write(tmp_path, "engine: {name: a, timeout: 2}\nnames: [x]\n"))
    assert (found.engine.name, found.engine.timeout) == ("a", 9)
    assert found.names == {"z"}


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("HUBGATE_ENGINE__TIMEOUT", CANARY, "engine.timeout"),
        ("HUBGATE_ENGINE__TIMEOT", CANARY, "engine.timeot: unknown key"),
        ("HUBGATE_ENGIN__TIMEOUT", CANARY, "HUBGATE_ENGIN__TIMEOUT: overrides no key"),
        ("HUBGATE_NAMES", CANARY, "names"),
        ("HUBGATE_ENGINES", f'[{{"nam": "{CANARY}"}}]', "engines.0.nam"),
    ],
)
def test_a_wrong_override_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    """A typing error in an override is told, and its value is not."""
    monkeypatch.setenv(name, value)
    found = faults(write(tmp_path, "engine: {name: a}\n"))
    assert any(says in fault for fault in found)
    assert CANARY not in "".join(found)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60) | st.text("{}[]:,&*!|>'\"%@`#-? \n\tab0", max_size=40).map(str.encode))
def test_no_file_makes_it_stumble(tmp_path: Path, text: bytes) -> None:
    """Any bytes at all are either a configuration or a list of faults."""
    assert faults(write(tmp_path, text))
