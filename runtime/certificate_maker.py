"""`hubgate certs make`: a private authority, and the certificates that proxies, backends and engines show.

For those who have no authority of their own. What is in a certificate is in `hubgate.wire.certificates`.
"""

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from hubgate.wire import certificates
from hubgate.wire.certificates import Kind
from hubgate.wire.keys import KeyFileError

AUTHORITY_DAYS: Final = 3650
DAYS: Final = 365
SKEW: Final = timedelta(hours=1)  # by which clocks may differ: a new certificate is good at once
DUE: Final = 3  # renewed once less than one part in so many of its life is left

What = Literal["made", "kept", "due", "renewed"]


@dataclass(frozen=True, slots=True)
class Made:
    """One certificate and its key, and what became of them. `due`: it should be renewed, and was not."""

    what: What
    certificate: Path
    key: Path
    until: datetime


@dataclass(frozen=True, slots=True)
class Wanted:
    """A certificate that there should be."""

    kind: Kind
    name: str

    @property
    def stem(self) -> str:
        """Of its two files."""
        return f"tls_{self.kind}_{self.name}"


@dataclass(frozen=True, slots=True)
class _Issuer:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def make(
    out: Path,
    wanted: Sequence[Wanted],
    *,
    days: int = DAYS,
    renew: bool = False,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Iterator[Made]:
    """Make what is missing, the authority first; with `renew`, also what has little of its life left.

    Everything else stays as it is. Raises `KeyFileError`, before anything is written that does not fit the
    rest.
    """
    out.mkdir(parents=True, exist_ok=True)
    authority = out / "tls_ca.pem", out / "tls_ca.key"
    moment = now()
    for pair in (authority, *(_pair(out, one) for one in wanted)):
        _whole(*pair)
    fresh = not authority[0].exists()
    if fresh:
        _write_pair(*authority, *_new_authority(moment))
    issuer = _read_issuer(*authority, moment)
    yield Made("made" if fresh else _kept(issuer.certificate, moment), *authority, _until(issuer.certificate))
    for one in wanted:
        yield _one(issuer, one, _pair(out, one), moment, timedelta(days=days), renew=renew)


def self_signed(kind: Kind, name: str, now: datetime) -> bytes:
    """A certificate that is its own authority, and its key, in one PEM, for a process that keeps both."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject(f"Hubgate {kind} {name}")
    builder = _builder(subject, subject, key, now, timedelta(days=AUTHORITY_DAYS))
    certificate = _for(builder, Wanted(kind, name)).sign(key, SHA256())
    return certificate.public_bytes(Encoding.PEM) + key_pem(key)


def issue(
    authority: tuple[x509.Certificate, ec.EllipticCurvePrivateKey],
    wanted: Wanted,
    now: datetime,
    life: timedelta,
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A new certificate of this authority's, good from an hour before `now`."""
    issuer, issuer_key = authority
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(_subject(f"Hubgate {wanted.kind} {wanted.name}"), issuer.subject, key, now, life)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    builder = _for(builder.add_extension(identifier, critical=False), wanted)
    return builder.sign(issuer_key, SHA256()), key


def _one(
    issuer: _Issuer, one: Wanted, pair: tuple[Path, Path], now: datetime, life: timedelta, *, renew: bool
) -> Made:
    what: What = "made"
    if pair[0].exists():
        old = certificates.read(pair[0])
        what = _kept(old, now)
        try:
            old.verify_directly_issued_by(issuer.certificate)
        except (ValueError, TypeError, InvalidSignature):
            raise KeyFileError(f"{pair[0]}: is of another authority than that of tls_ca.pem") from None
        if what == "kept" or not renew:
            return Made(what, *pair, _until(old))
        what = "renewed"
    made, key = issue((issuer.certificate, issuer.key), one, now, life)
    _write_pair(*pair, made, key)
    return Made(what, *pair, _until(made))


def _kept(certificate: x509.Certificate, now: datetime) -> What:
    life = _until(certificate) - certificate.not_valid_before_utc
    return "due" if (_until(certificate) - now) * DUE < life else "kept"


def _until(certificate: x509.Certificate) -> datetime:
    return certificate.not_valid_after_utc


def _pair(out: Path, one: Wanted) -> tuple[Path, Path]:
    return out / f"{one.stem}.pem", out / f"{one.stem}.key"


def _whole(certificate: Path, key: Path) -> None:
    if certificate.exists() != key.exists():
        there, missing = (certificate, key) if certificate.exists() else (key, certificate)
        raise KeyFileError(f"{there}: is there without {missing.name}; put that back, or move this one away")


def _read_issuer(certificate: Path, key: Path, now: datetime) -> _Issuer:
    read = certificates.read(certificate)
    try:
        loaded = load_pem_private_key(key.read_bytes(), None)
    except OSError as error:
        raise KeyFileError(f"{key}: {error.strerror}") from None
    except (ValueError, TypeError):
        raise KeyFileError(f"{key}: holds no key in PEM") from None
    if not isinstance(loaded, ec.EllipticCurvePrivateKey) or loaded.public_key() != read.public_key():
        raise KeyFileError(f"{key}: is not the key of {certificate}")
    if now > _until(read):
        raise KeyFileError(f"{certificate}: has expired; make a new authority in a new folder")
    return _Issuer(read, loaded)


def _new_authority(now: datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject(f"Hubgate {secrets.token_hex(4)}")  # so that two authorities have two names
    builder = _builder(subject, subject, key, now, timedelta(days=AUTHORITY_DAYS))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    return builder.add_extension(_usage(signs=True), critical=True).sign(key, SHA256()), key


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _for(builder: x509.CertificateBuilder, one: Wanted) -> x509.CertificateBuilder:
    usages = [certificates.ROLES[one.kind], certificates.USAGES[one.kind]]
    return (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(one.name)]), critical=False)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])  # RFC 5280, ub-common-name


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """As it stands in a file."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write_pair(
    certificate: Path, key: Path, made: x509.Certificate, made_key: ec.EllipticCurvePrivateKey
) -> None:
    """Each in one step. Who reads between the two goes on with the old pair, until both fit."""
    _write(key, key_pem(made_key), 0o600)
    _write(certificate, made.public_bytes(Encoding.PEM), 0o644)


def _write(path: Path, content: bytes, mode: int) -> None:
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
    scratch.replace(path)
