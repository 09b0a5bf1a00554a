"""Key files: JWK Sets (RFC 7517) of Ed25519 and X25519 keys (RFC 8037), made by `hubgate.wire.keygen`.

Private files hold several keys while they rotate: all of them are accepted, the newest signs.
"""

import hmac
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, OctKey, OKPKey

from hubgate.wire.file_faults import misplaced, unreadable

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


def load_proxy_keys(path: Path) -> ProxyKeys:
    """Read a proxy's private file. Raises `KeyFileError`."""
    keys = read_jwks(path)
    peppers = [k for k in keys if k.get("kty") == "oct"]
    if len(peppers) != 1:
        raise KeyFileError(f"{path}: holds no pepper; make it with `hubgate keygen proxy`")
    return ProxyKeys(_newest(path, keys, "Ed25519", private=True), _pepper(path, peppers[0]))


def load_backend_keys(path: Path) -> BackendKeys:
    """Read a backend's private file. Raises `KeyFileError`."""
    keys = read_jwks(path)
    opening = KeySet([_import(path, key) for key in _of_curve(path, keys, "X25519", private=True)])
    return BackendKeys(_newest(path, keys, "Ed25519", private=True), opening)


def load_backend_public(path: Path) -> BackendPublic:
    """Read the public half that a backend handed over. Raises `KeyFileError`."""
    keys = read_jwks(path)
    return BackendPublic(_verifying(path, keys), _newest(path, keys, "X25519", private=False))


def load_verifying(path: Path) -> KeySet:
    """Read the Ed25519 public keys of the proxies that a backend trusts. Raises `KeyFileError`."""
    return _verifying(path, read_jwks(path))


def public_dict(key: OKPKey) -> dict[str, Any]:
    """The public half, as a JWK."""
    return dict(key.as_dict(private=False))


def read_jwks(path: Path) -> list[dict[str, Any]]:
    """The keys of a JWK Set, of any kind. Raises `KeyFileError`."""
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise KeyFileError(f"{path}: {error.strerror}; make it with `hubgate keygen`") from None
    except OSError as error:
        raise KeyFileError(unreadable(path, error)) from None
    if fault := misplaced(data):
        raise KeyFileError(f"{path}: {fault}")
    try:
        keys = msgspec.json.decode(data)["keys"]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError):
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
