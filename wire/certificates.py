"""Certificates between the programs: what kinds there are, and how one is told from another.

A certificate says what its holder may be by Extended Key Usage (RFC 5280, section 4.2.1.12). The usages of
TLS itself (`clientAuth`, `serverAuth`) keep a server's certificate from acting as a client's: OpenSSL looks
at them, in vLLM's server as well. One usage of our own says which kind it is. So with what is in an engine's
process nobody can act as a proxy, nor as a backend.

The numbers lie in an arc that needs no registration (Microsoft's for schema extensions: a GUID in seven
pieces). The arc of UUIDs, 2.25, would not do: its numbers have 128 bits, and Go's TLS, which is Prometheus',
refuses a certificate with one that has more than 31.
"""

from datetime import datetime
from pathlib import Path
from typing import Final, Literal, TypeVar

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from hubgate.wire.keys import KeyFileError

Extension = TypeVar("Extension", bound=x509.ExtensionType)
Kind = Literal["proxy", "backend", "engine", "supervisor"]

ARC: Final = "1.2.840.113556.1.8000.2554.42949.52299.29635.17165.34105.6158719.13913149"
USAGES: Final[dict[Kind, x509.ObjectIdentifier]] = {
    "proxy": x509.ObjectIdentifier(f"{ARC}.1"),
    "backend": x509.ObjectIdentifier(f"{ARC}.2"),
    "engine": x509.ObjectIdentifier(f"{ARC}.3"),
    # A backend towards its own engines: made at each start, and believed by no one else.
    "supervisor": x509.ObjectIdentifier(f"{ARC}.4"),
}
ROLES: Final[dict[Kind, x509.ObjectIdentifier]] = {
    "proxy": ExtendedKeyUsageOID.CLIENT_AUTH,
    "backend": ExtendedKeyUsageOID.SERVER_AUTH,
    "engine": ExtendedKeyUsageOID.SERVER_AUTH,
    "supervisor": ExtendedKeyUsageOID.CLIENT_AUTH,
}


def kinds(certificate: x509.Certificate) -> frozenset[Kind]:
    """What the holder may be."""
    usages = set(_extension(certificate, x509.ExtendedKeyUsage) or ())
    return frozenset(kind for kind, usage in USAGES.items() if usage in usages and ROLES[kind] in usages)


def names(certificate: x509.Certificate) -> tuple[str, ...]:
    """The names that it is for."""
    found = _extension(certificate, x509.SubjectAlternativeName)
    return () if found is None else tuple(found.get_values_for_type(x509.DNSName))


def wrong_kind(certificate: x509.Certificate, wanted: tuple[Kind, ...]) -> str | None:
    """Why the holder is none of those that are wanted; `None` if it is one."""
    found = kinds(certificate)
    if not found.isdisjoint(wanted):
        return None
    is_of = f"that of {' and '.join(sorted(map(article, found)))}" if found else "of no kind of Hubgate's"
    return f"the certificate is {is_of}, not that of {' or '.join(map(article, wanted))}"


def article(kind: Kind) -> str:
    """`a proxy`, `an engine`."""
    return f"an {kind}" if kind == "engine" else f"a {kind}"


def read(path: Path) -> x509.Certificate:
    """The first certificate of a PEM file, which is the holder's own. Raises `KeyFileError`."""
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())[0]
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror}; `hubgate certs make` makes certificates") from None
    except ValueError:
        raise KeyFileError(f"{path}: holds no certificate in PEM") from None


def check(path: Path, kind: Kind, name: str | None, now: datetime) -> x509.Certificate:
    """The certificate in this file, if its holder may be this and has this name. Raises `KeyFileError`."""
    certificate = read(path)
    if (wrong := wrong_kind(certificate, (kind,))) is not None:
        raise KeyFileError(f"{path}: {wrong}")
    if name is not None and name.lower() not in (found.lower() for found in names(certificate)):
        raise KeyFileError(f"{path}: the certificate is for {_listed(certificate)}, not for {name}")
    if now < certificate.not_valid_before_utc:
        raise KeyFileError(
            f"{path}: is valid from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC only"
        )
    if now > certificate.not_valid_after_utc:
        raise KeyFileError(
            f"{path}: expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC; renew it"
        )
    return certificate


def _extension(certificate: x509.Certificate, kind: type[Extension]) -> Extension | None:
    """What it says of this; `None` where it says nothing, or where its extensions cannot be read."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return None


def _listed(certificate: x509.Certificate) -> str:
    return ", ".join(names(certificate)) or "no name"
