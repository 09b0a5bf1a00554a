"""What a certificate says of its holder, and the words for one that says something else."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from hubgate.wire import certificates
from hubgate.wire.certificates import ROLES, USAGES, Kind
from hubgate.wire.keys import KeyFileError

START = datetime(2027, 1, 1, 12, 30, tzinfo=UTC)
END = START + timedelta(days=30)
CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH


def certificate(
    *usages: x509.ObjectIdentifier, names: tuple[str, ...] = (), extra: x509.ExtensionType | None = None
) -> x509.Certificate:
    """One with these usages, for these names."""
    key = ec.generate_private_key(ec.SECP256R1())
    nobody = x509.Name([])
    builder = (
        x509.CertificateBuilder()
        .subject_name(nobody)
        .issuer_name(nobody)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(START)
        .not_valid_after(END)
    )
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    if names:
        alternative = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        builder = builder.add_extension(alternative, critical=False)
    if extra is not None:
        builder = builder.add_extension(extra, critical=False)
    return builder.sign(key, SHA256())


def written(path: Path, *found: x509.Certificate) -> Path:
    path.write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in found))
    return path


@pytest.mark.parametrize("kind", USAGES)
def test_a_kind_needs_both_usages(kind: Kind) -> None:
    """That of TLS and ours: either alone makes nobody anything."""
    both = ROLES[kind], USAGES[kind]
    assert certificates.kinds(certificate(*both)) == {kind}
    for alone in both:
        assert certificates.kinds(certificate(alone)) == frozenset()
    other = SERVER if ROLES[kind] == CLIENT else CLIENT
    assert certificates.kinds(certificate(other, USAGES[kind])) == frozenset()
    assert certificates.kinds(certificate()) == frozenset()


def test_roles() -> None:
    """Who is a client is no server: what OpenSSL looks at by itself."""
    clients = {kind for kind, role in ROLES.items() if role == CLIENT}
    assert clients == {"proxy", "supervisor"}
    assert {kind for kind, role in ROLES.items() if role == SERVER} == {"backend", "engine"}


def test_usages_stay_what_they_are() -> None:
    """Certificates outlive programs; and Go takes no number of more than 31 bits."""
    assert {kind: usage.dotted_string.rpartition(".")[2] for kind, usage in USAGES.items()} == {
        "proxy": "1",
        "backend": "2",
        "engine": "3",
        "supervisor": "4",
    }
    arc = "1.2.840.113556.1.8000.2554.42949.52299.29635.17165.34105.6158719.13913149"
    assert {usage.dotted_string.rpartition(".")[0] for usage in USAGES.values()} == {arc}
    assert all(int(part) < 2**31 for part in arc.split("."))


def test_the_words_for_a_wrong_kind() -> None:
    """What it is, and what it should be."""
    engine = certificate(SERVER, USAGES["engine"])
    both = certificate(SERVER, USAGES["engine"], USAGES["backend"])
    assert certificates.wrong_kind(engine, ("proxy", "engine")) is None
    assert certificates.wrong_kind(engine, ("proxy",)) == (
        "the certificate is that of an engine, not that of a proxy"
    )
    assert certificates.wrong_kind(both, ("proxy", "supervisor")) == (
        "the certificate is that of a backend and an engine, not that of a proxy or a supervisor"
    )
    assert certificates.wrong_kind(certificate(SERVER), ("backend",)) == (
        "the certificate is of no kind of Hubgate's, not that of a backend"
    )


def test_names() -> None:
    """Those of its subject alternative names that are DNS names."""
    assert certificates.names(certificate(names=("gpu-0", "gpu-1"))) == ("gpu-0", "gpu-1")
    assert certificates.names(certificate(SERVER)) == ()


def renumbered(usages: tuple[x509.ObjectIdentifier, ...], content: bytes) -> x509.Certificate:
    """One with usages and an extension of this content that passes itself off as the usages."""
    made = certificate(*usages, extra=x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.99"), content))
    encoded = made.public_bytes(Encoding.DER).replace(b"\x06\x03\x55\x1d\x63", b"\x06\x03\x55\x1d\x25")
    return x509.load_der_x509_certificate(encoded)


@pytest.mark.parametrize(
    "usages", [(), (SERVER, USAGES["engine"])], ids=["one that is none", "usages that stand twice"]
)
def test_extensions_that_cannot_be_read(usages: tuple[x509.ObjectIdentifier, ...]) -> None:
    """Make nobody anything."""
    odd = renumbered(usages, b"junk")
    assert (certificates.kinds(odd), certificates.names(odd)) == (frozenset(), ())


def test_the_first_certificate_is_the_holders(tmp_path: Path) -> None:
    """What follows is its chain."""
    first, second = certificate(names=("a",)), certificate(names=("b",))
    assert certificates.read(written(tmp_path / "chain.pem", first, second)) == first


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file or directory; `hubgate certs make` makes certificates"),
        (b"", "holds no certificate in PEM"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "holds no certificate in PEM"),
    ],
)
def test_files_without_one(tmp_path: Path, content: bytes | None, said: str) -> None:
    """The path and what is wrong, nothing of what is in it."""
    path = tmp_path / "own.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(KeyFileError) as caught:
        certificates.read(path)
    assert str(caught.value) == f"{path}: {said}"


def test_ones_own_certificate(tmp_path: Path) -> None:
    """It has to be of the kind, for the name in whatever case, and valid now, to the second."""
    path = written(tmp_path / "own.pem", certificate(SERVER, USAGES["backend"], names=("GPU-0", "x")))
    second = timedelta(seconds=1)

    def fault(kind: Kind = "backend", name: str | None = "gpu-0", now: datetime = START) -> str:
        with pytest.raises(KeyFileError) as caught:
            certificates.check(path, kind, name, now)
        return str(caught.value)

    for now in (START, END):
        assert certificates.check(path, "backend", "gpu-0", now) == certificates.read(path)
    assert certificates.check(path, "backend", None, START)
    assert fault("engine") == f"{path}: the certificate is that of a backend, not that of an engine"
    assert fault(name="gpu-1") == f"{path}: the certificate is for GPU-0, x, not for gpu-1"
    assert fault(now=START - second) == f"{path}: is valid from 2027-01-01 12:30 UTC only"
    assert fault(now=END + second) == f"{path}: expired on 2027-01-31 12:30 UTC; renew it"
    written(path, certificate(SERVER, USAGES["backend"]))
    assert fault() == f"{path}: the certificate is for no name, not for gpu-0"
