"""The service token of the environment: which name wins, and files that rotate."""

from pathlib import Path

import pytest

from hubgate.runtime import service_token
from hubgate.runtime.service_token import NAMES, TokenFile, TokenValue
from hubgate.wire.secret import Secret

CANARY = "hf_canary_4711"


def token(environ: dict[str, str]) -> str | None:
    """The text of the token that an environment names."""
    source = service_token.find(environ)
    secret = source.read() if source else None
    return secret.reveal() if secret else None


def test_no_name_is_no_token() -> None:
    """Without any of the names there is no token, whatever else is set."""
    assert service_token.find({"PATH": "/bin", "HF_TOKEN_PATH": "x", "HF_ENDPOINT": "y"}) is None


@pytest.mark.parametrize("index", range(3))
def test_the_first_name_wins(index: int) -> None:
    """`HF_API_TOKEN` goes before `HF_TOKEN`, and that before `HUGGING_FACE_HUB_TOKEN`."""
    assert NAMES == ("HF_API_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
    assert token({name: f"hf_{place}" for place, name in enumerate(NAMES) if place >= index}) == f"hf_{index}"


@pytest.mark.parametrize("empty", ["", " ", "\n"])
def test_an_empty_value_is_not_set(empty: str) -> None:
    """An empty variable is passed over, for the next name or for its own file."""
    assert token({"HF_API_TOKEN": empty, "HF_TOKEN": CANARY}) == CANARY
    assert service_token.find(dict.fromkeys(NAMES, empty)) is None


def test_a_value_is_stripped() -> None:
    """White space around a token is not part of it."""
    assert token({"HF_TOKEN": f" {CANARY}\n"}) == CANARY


def test_a_file_is_read_anew_each_time(tmp_path: Path) -> None:
    """A mounted secret that rotates counts at the next use, and its absence too."""
    path = tmp_path / "token"
    source = service_token.find({"HF_TOKEN_FILE": str(path)})
    assert isinstance(source, TokenFile)
    assert source.read() is None
    for text in (CANARY, CANARY + "_new"):
        path.write_text(f"{text}\n")
        assert source.read() == Secret(text)
    path.write_text(" \n")
    assert source.read() is None


def test_a_value_goes_before_the_file_of_the_same_name(tmp_path: Path) -> None:
    """Of one name the value wins; the file of an earlier name wins over the value of a later one."""
    path = tmp_path / "token"
    path.write_text("hf_file")
    assert token({"HF_TOKEN": "hf_value", "HF_TOKEN_FILE": str(path)}) == "hf_value"
    assert token({"HF_API_TOKEN_FILE": str(path), "HF_TOKEN": "hf_value"}) == "hf_file"


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"hf_\xc3\xa9"])
def test_a_file_of_odd_bytes_is_read_without_an_error(tmp_path: Path, content: bytes) -> None:
    """A file that is no ASCII gives a token that no Hub could know, and no exception that quotes it."""
    path = tmp_path / "token"
    path.write_bytes(content)
    secret = TokenFile(path).read()
    assert secret is not None
    assert "\N{REPLACEMENT CHARACTER}" in secret.reveal()


def test_a_folder_is_no_token(tmp_path: Path) -> None:
    """A path that cannot be read counts as missing."""
    assert TokenFile(tmp_path).read() is None


def test_the_value_is_not_shown() -> None:
    """The repr of a source holds no token."""
    assert CANARY not in repr(TokenValue(Secret(CANARY)))
