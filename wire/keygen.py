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
    """Write `hubgate_proxy.key` (0600) and `hubgate_proxy.pub` into `out`, unless they are there."""
    signing = _new_key("Ed25519", "sig")
    pepper = OctKey.generate_key(PEPPER_BYTES * 8, {"kid": "pepper"})
    return _write_pair(out, "hubgate_proxy", [signing], [pepper.as_dict(private=True)])


def generate_backend(out: Path) -> tuple[Path, Path]:
    """Write `hubgate_backend.key` (0600) and `hubgate_backend.pub` into `out`, unless they are there."""
    return _write_pair(out, "hubgate_backend", [_new_key("Ed25519", "sig"), _new_key("X25519", "enc")])


def generate_both(out: Path) -> list[tuple[Path, Path]]:
    """A pair in `out/proxy` and one in `out/backend`, unless they are there; each public half to the other.

    A half that was handed over before is replaced: an added key arrives. The proxy has `admin.key` as well,
    for commands, and both have `metrics.key`, which `out/metrics` holds for a group that may read it.
    """
    pairs = [generate_proxy(out / "proxy"), generate_backend(out / "backend")]
    for (_, public), other in zip(pairs, ("backend", "proxy"), strict=True):
        target = out / other / public.name
        if not target.exists() or target.read_bytes() != public.read_bytes():
            _write(target, read_jwks(public), 0o644)
    _write_once(out / "proxy" / "admin.key", secrets.token_hex(32), 0o600)
    (out / "metrics").mkdir(mode=0o750, exist_ok=True)
    read = _write_once(out / "metrics" / "metrics.key", secrets.token_hex(32), 0o640)
    for side in ("proxy", "backend"):
        _write_once(out / side / "metrics.key", read, 0o600)
    return pairs


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
    """Write the pair, private half first; one that is there is kept, and a lost public half made anew.

    Raises `KeyFileError` where the public half stands alone: it is somebody else's.
    """
    out.mkdir(parents=True, exist_ok=True)
    private, public = out / f"{stem}.key", out / f"{stem}.pub"
    if private.exists():
        if not public.exists():
            own = [OKPKey.import_key(key) for key in read_jwks(private) if key.get("kty") == "OKP"]
            _write(public, [public_dict(key) for key in own], 0o644)
        return private, public
    if public.exists():
        raise KeyFileError(f"{public}: is there without {private.name}; nothing was written")
    _write(private, [k.as_dict(private=True) for k in keys] + (extra or []), 0o600)
    _write(public, [public_dict(k) for k in keys], 0o644)
    return private, public


def _add(out: Path, stem: str, keys: list[OKPKey]) -> tuple[Path, Path]:
    private, public = out / f"{stem}.key", out / f"{stem}.pub"
    before = read_jwks(private), read_jwks(public)
    _write(public, before[1] + [public_dict(k) for k in keys], 0o644)
    _write(private, before[0] + [k.as_dict(private=True) for k in keys], 0o600)
    return private, public


def _write_once(path: Path, key: str, mode: int) -> str:
    """Write a key that is one line of text, unless it is there. Gives what is in the file."""
    if not path.exists():
        _replace(path, f"{key}\n".encode(), mode)
    return path.read_text(encoding="ascii").strip()


def _write(path: Path, keys: list[dict[str, Any]], mode: int) -> None:
    _replace(path, msgspec.json.format(msgspec.json.encode({"keys": keys}), indent=2) + b"\n", mode)


def _replace(path: Path, content: bytes, mode: int) -> None:
    """Replace the file in one step: whoever reads it sees the old version or the new one."""
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
    scratch.replace(path)
