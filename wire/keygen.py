"""Makes key files, and adds keys to them: `hubgate keygen`. What is in one is read by `hubgate.wire.keys`."""

import os
import secrets
import time
from pathlib import Path
from typing import Any

import msgspec
from joserfc.jwk import OctKey, OKPKey

from hubgate.wire.keys import PEPPER_BYTES, KeyFileError, public_dict, read_jwks


def generate_proxy(out: Path) -> tuple[Path, Path]:
    """Write `hubgate_proxy.key` (0600) and `hubgate_proxy.pub` into `out`; refuse to overwrite."""
    signing = _new_key("Ed25519", "sig")
    pepper = OctKey.generate_key(PEPPER_BYTES * 8, {"kid": "pepper"})
    return _write_pair(out, "hubgate_proxy", [signing], [pepper.as_dict(private=True)])


def generate_backend(out: Path) -> tuple[Path, Path]:
    """Write `hubgate_backend.key` (0600) and `hubgate_backend.pub` into `out`."""
    return _write_pair(out, "hubgate_backend", [_new_key("Ed25519", "sig"), _new_key("X25519", "enc")])


def add_proxy(out: Path) -> tuple[Path, Path]:
    """Put a new signing key beside the old ones in both files; the pepper stays."""
    return _add(out, "hubgate_proxy", [_new_key("Ed25519", "sig")])


def add_backend(out: Path) -> tuple[Path, Path]:
    """Put new keys beside the old ones in both files."""
    return _add(out, "hubgate_backend", [_new_key("Ed25519", "sig"), _new_key("X25519", "enc")])


def generate_supervisor() -> OKPKey:
    """The key that a supervisor signs its control grants with: lives in memory, for one boot."""
    return _new_key("Ed25519", "sig")


def _new_key(curve: str, use: str) -> OKPKey:
    key = OKPKey.generate_key(curve, {"use": use, "kid": secrets.token_hex(8)})  # type: ignore[arg-type]
    dated: dict[str, Any] = {**key.as_dict(private=True), "iat": int(time.time())}
    return OKPKey.import_key(dated)


def _write_pair(
    out: Path, stem: str, keys: list[OKPKey], extra: list[dict[str, Any]] | None = None
) -> tuple[Path, Path]:
    out.mkdir(parents=True, exist_ok=True)
    private, public = out / f"{stem}.key", out / f"{stem}.pub"
    for path in (private, public):
        if path.exists():
            raise KeyFileError(f"{path}: exists already; nothing was written")
    _write(public, [public_dict(k) for k in keys], 0o644)
    _write(private, [k.as_dict(private=True) for k in keys] + (extra or []), 0o600)
    return private, public


def _add(out: Path, stem: str, keys: list[OKPKey]) -> tuple[Path, Path]:
    private, public = out / f"{stem}.key", out / f"{stem}.pub"
    before = read_jwks(private), read_jwks(public)
    _write(public, before[1] + [public_dict(k) for k in keys], 0o644)
    _write(private, before[0] + [k.as_dict(private=True) for k in keys], 0o600)
    return private, public


def _write(path: Path, keys: list[dict[str, Any]], mode: int) -> None:
    """Replace the file in one step: whoever reads it sees the old version or the new one."""
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(fd, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode({"keys": keys}), indent=2) + b"\n")
    scratch.replace(path)
