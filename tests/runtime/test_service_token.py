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


FAULTY = {
    b"": "is empty",
    b" \n": "is empty",
    b"\xef\xbb\xbfhf_canary_4711": "byte order mark",
    "hf_canary_4711".encode("utf-16"): "byte order mark",
    b'"hf_canary_4711"': "in quotes",
    b"'hf_canary_4711'\n": "in quotes",
    b"HF_TOKEN=hf_canary_4711": "NAME=VALUE",
    b'export HF_TOKEN="hf_canary_4711"': "in quotes",
    b"Bearer hf_canary_4711": "begins with Bearer",
    b"hf_canary_4711\nhf_canary_4712\n": "several lines",
    b"hf_canary 4711": "a space",
    b"hf_canary_\xc3\xa9": "not ASCII",
    b"\xff\x00hf_canary_4711": "not ASCII",
}


@pytest.mark.parametrize("content", FAULTY)
def test_what_cannot_be_a_token_is_none_and_said_so(tmp_path: Path, content: bytes) -> None:
    """Each fault has a sentence of its own, with the file's name, and nothing of what is in it."""
    path = tmp_path / "token"
    path.write_bytes(content)
    source = TokenFile(path, "HF_TOKEN_FILE")
    assert source.read() is None
    assert source.fault is not None
    assert source.fault.startswith(f"{path}: ")
    assert FAULTY[content] in source.fault
    assert "canary" not in source.fault
    path.write_text(CANARY)
    assert source.read() == Secret(CANARY)
    assert source.fault is None


@pytest.mark.parametrize("content", [c for c in FAULTY if c.strip() and not c.startswith(b"\xff")])
def test_a_value_of_the_environment_has_the_same_faults(content: bytes) -> None:
    """Docker's `--env-file` keeps quotes, which are no part of a token."""
    source = service_token.find({"HF_TOKEN": content.decode()})
    assert source is not None
    assert source.read() is None
    assert FAULTY[content] in (source.fault or "")
    assert "canary" not in (source.fault or "")


def test_a_key_in_base64_is_no_assignment() -> None:
    """Padding stands at the end."""
    assert token({"HF_TOKEN": "YWJjZA=="}) == "YWJjZA=="


def test_a_folder_is_no_token(tmp_path: Path) -> None:
    """Docker makes one where the file of a mount is missing, and that is said."""
    source = TokenFile(tmp_path)
    assert source.read() is None
    assert "Docker makes one" in (source.fault or "")


def test_the_value_is_not_shown() -> None:
    """The repr of a source holds no token."""
    assert CANARY not in repr(TokenValue(Secret(CANARY)))
