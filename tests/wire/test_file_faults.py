"""What is wrong with a file that may not be read: told as that, with whose it is."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml

from hubgate.wire.file_faults import unreadable
from hubgate.wire.keys import KeyFileError, read_jwks
from tests.fakes.keyring import Keyring

NOBODY = 65534
CANARY = "hf_canary_4711"

# As another uid, where this one is root, whom no mode stops; all is imported before.
PROGRAM = """
    import os, sys
    from hubgate import cli
    from hubgate.backend import app
    from hubgate.proxy import preflight
    from hubgate.proxy.auth import accounts

    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(*[int(sys.argv[1])] * 3)
        os.setresuid(*[int(sys.argv[1])] * 3)
    cli.main(sys.argv[2:])
"""


@pytest.fixture
def proxy_config(tmp_path: Path) -> Path:
    """A proxy's configuration with every kind of secret, in a folder that anybody may enter."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o711)
    ring = Keyring.make(tmp_path / "keys")
    for name, content in (("token", CANARY), ("admin.key", "x" * 40), ("redis", "redis://a:b@127.0.0.1/0")):
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o600)
    config = {
        "callers": {"anyone": True},
        "models": {"allow": ["demo/*"]},
        "keys": [
            {
                "name": "ci",
                "sha256": "0" * 64,
                "token": {"file": str(tmp_path / "token")},
                "models": ["demo/*"],
            }
        ],
        "admin": {"key_file": str(tmp_path / "admin.key")},
        "limits": {"storage_file": str(tmp_path / "redis")},
        "upstreams": [
            {"name": "gpu-0", "url": "http://127.0.0.1:9", "public_key_file": str(ring.backend_public)}
        ],
        "seal": {"key_file": str(ring.proxy_private)},
        "audit": {"path": str(tmp_path / "audit.jsonl")},
    }
    path = tmp_path / "proxy.yaml"
    path.write_text(yaml.safe_dump(config))
    path.chmod(0o644)
    return path


def checked(*arguments: str) -> tuple[int, str]:
    """The end of `hubgate check-config` as another user, and what it said."""
    command = [sys.executable, "-P", "-c", textwrap.dedent(PROGRAM), str(NOBODY), "check-config", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    return done.returncode, done.stdout + done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="another uid's files are made by root alone")
def test_every_secret_of_a_proxy_that_is_anothers_is_told_as_that(proxy_config: Path) -> None:
    """All at once, each with path, mode, owner and our uid, and nothing of what is in them."""
    code, said = checked("--config", str(proxy_config))
    assert code == 2, said
    for key in ("keys.0.token.file", "admin.key_file", "limits.storage_file", "seal.key_file"):
        (line,) = [line for line in said.splitlines() if line.strip().startswith(f"{key}: ")]
        assert "may not be read: its mode is 0600, its owner uid 0" in line
        assert f"this process runs as uid {NOBODY}" in line
        assert str(proxy_config.parent) in line
    assert CANARY not in said
    assert "a:b" not in said


@pytest.mark.skipif(os.geteuid() != 0, reason="another uid's files are made by root alone")
def test_a_folder_that_may_not_be_entered_is_named(proxy_config: Path) -> None:
    """The file may be anybody's: what keeps us out is what is told."""
    (proxy_config.parent / "keys").chmod(0o700)
    _, said = checked("--config", str(proxy_config))
    (line,) = [line for line in said.splitlines() if "seal.key_file" in line]
    assert f"the folder {proxy_config.parent / 'keys'} may not be entered: its mode is 0700" in line


def test_a_key_file_that_is_empty_or_marked_says_so(tmp_path: Path) -> None:
    """Instead of that it is no JWK Set."""
    path = tmp_path / "some.key"
    for content, told in (
        (b"", "is empty"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b"{}", "is no JWK Set"),
    ):
        path.write_bytes(content)
        with pytest.raises(KeyFileError, match=told):
            read_jwks(path)


def test_other_errors_keep_their_names(tmp_path: Path) -> None:
    """Only what is about permissions is explained by them."""
    assert unreadable(tmp_path, OSError(5, "Input/output error")) == f"{tmp_path}: Input/output error"
