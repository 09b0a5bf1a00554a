"""Key files: JWK Sets (RFC 7517) of Ed25519 and X25519 keys (RFC 8037), made by `hubgate keygen`.

Private files hold several keys while they rotate: all of them are accepted, the newest signs.
"""

import hmac
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, OctKey, OKPKey

PEPPER_BYTES = 32
SETTLE = 10.0  # seconds that a new key only verifies and opens, until the other side knows it too


class KeyFileError(ValueError):
    """A key file is missing, unreadable or of the wrong kind. Never quotes key material."""


@dataclass(frozen=True, slots=True)
class ProxyKeys:
    """What a proxy holds: its signing key, and the pepper that identity hashes are made with."""

    signing: OKPKey
    pepper: bytes

    def derive(self, purpose: str) -> bytes:
        """32 bytes for one purpose (identity hashes, audit chain, cache salts) out of the pepper."""
        return hmac.digest(self.pepper, purpose.encode(), "sha256")


@dataclass(frozen=True, slots=True)
class BackendKeys:
    """What a backend holds: Ed25519 signs its hello, X25519 opens scoped tokens."""

    signing: OKPKey
    opening: KeySet


@dataclass(frozen=True, slots=True)
class BackendPublic:
    """What a proxy knows of a backend: how to check its hello and seal a token for it alone."""

    verifying: KeySet
    sealing: OKPKey


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


def load_proxy_keys(path: Path) -> ProxyKeys:
    """Read a proxy's private file. Raises `KeyFileError`."""
    keys = _read(path)
    peppers = [k for k in keys if k.get("kty") == "oct"]
    if len(peppers) != 1:
        raise KeyFileError(f"{path}: holds no pepper; make it with `hubgate keygen proxy`")
    return ProxyKeys(_newest(path, keys, "Ed25519", private=True), _pepper(path, peppers[0]))


def load_backend_keys(path: Path) -> BackendKeys:
    """Read a backend's private file. Raises `KeyFileError`."""
    keys = _read(path)
    opening = KeySet([_import(path, key) for key in _of_curve(path, keys, "X25519", private=True)])
    return BackendKeys(_newest(path, keys, "Ed25519", private=True), opening)


def load_backend_public(path: Path) -> BackendPublic:
    """Read the public half that a backend handed over. Raises `KeyFileError`."""
    keys = _read(path)
    return BackendPublic(_verifying(path, keys), _newest(path, keys, "X25519", private=False))


def load_verifying(path: Path) -> KeySet:
    """Read the Ed25519 public keys of the proxies that a backend trusts. Raises `KeyFileError`."""
    return _verifying(path, _read(path))


def public_dict(key: OKPKey) -> dict[str, Any]:
    """The public half, as a JWK."""
    return dict(key.as_dict(private=False))


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
    before = _read(private), _read(public)
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


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        data = msgspec.json.decode(path.read_bytes())
        keys = data["keys"]
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror}; make it with `hubgate keygen`") from None
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
        raise KeyFileError(f"{path}: is no JWK Set; make it with `hubgate keygen`") from None
    if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
        raise KeyFileError(f"{path}: is no JWK Set; make it with `hubgate keygen`")
    return keys


def _verifying(path: Path, keys: list[dict[str, Any]]) -> KeySet:
    return KeySet([_import(path, key) for key in _of_curve(path, keys, "Ed25519", private=False)])


def _newest(path: Path, keys: list[dict[str, Any]], curve: str, *, private: bool) -> OKPKey:
    """The key to use: the newest that has settled, or the oldest while none has."""
    # Equal ages: the later line wins, as an operator who appends a key means it.
    found = _of_curve(path, keys, curve, private=private)
    try:
        aged = sorted(enumerate(found), key=lambda line: (line[1].get("iat", 0), line[0]))
        settled = [key for _, key in aged if key.get("iat", 0) <= time.time() - SETTLE]
    except TypeError:
        raise KeyFileError(f"{path}: holds a key whose `iat` is no number") from None
    return _import(path, settled[-1] if settled else aged[0][1])


def _import(path: Path, key: dict[str, Any]) -> OKPKey:
    try:
        return OKPKey.import_key(key)
    except (JoseError, ValueError, TypeError, KeyError):
        # The cause may quote the key.
        raise KeyFileError(f"{path}: holds a broken {key['crv']} key") from None


def _pepper(path: Path, key: dict[str, Any]) -> bytes:
    try:
        pepper = OctKey.import_key(key).raw_value
    except (JoseError, ValueError, TypeError):
        pepper = b""
    if len(pepper) < PEPPER_BYTES:
        raise KeyFileError(f"{path}: holds a broken or short pepper; make it with `hubgate keygen proxy`")
    return pepper


def _of_curve(path: Path, keys: list[dict[str, Any]], curve: str, *, private: bool) -> list[dict[str, Any]]:
    found = [k for k in keys if k.get("crv") == curve]
    if not found or any(("d" in key) is not private for key in found):
        half = "private" if private else "public"
        raise KeyFileError(f"{path}: holds no {half} {curve} key; is it the right file?")
    return found
