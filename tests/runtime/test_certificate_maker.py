"""A private authority and its certificates: what is made, kept, renewed and refused."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from hubgate.runtime import certificate_maker as maker
from hubgate.runtime.certificate_maker import Made, Wanted
from hubgate.wire import certificates
from hubgate.wire.certificates import ROLES, USAGES, Kind
from hubgate.wire.keys import KeyFileError

NOW = datetime(2027, 1, 1, tzinfo=UTC)
ALL = [Wanted("proxy", "proxy"), Wanted("backend", "gpu-0"), Wanted("engine", "gpu-0")]


def make(folder: Path, after: float = 0, *, renew: bool = False, wanted: list[Wanted] = ALL) -> list[Made]:
    """So many days later."""
    moment = NOW + timedelta(days=after)
    return list(maker.make(folder, wanted, renew=renew, now=lambda: moment))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_in_them(tmp_path: Path) -> None:
    """One usage of TLS and one of ours each, the name as a name, no authority but the one."""
    made = make(tmp_path / "new")
    assert [one.what for one in made] == ["made"] * 4
    authority = certificates.read(made[0].certificate)
    for one, wanted in zip(made[1:], ALL, strict=True):
        certificate = certificates.read(one.certificate)
        certificate.verify_directly_issued_by(authority)
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert set(usages) == {ROLES[wanted.kind], USAGES[wanted.kind]}
        assert certificates.names(certificate) == (wanted.name,)
        assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert authority.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0


def test_every_kind_is_told_from_every_other(tmp_path: Path) -> None:
    """And those of TLS itself are a client's for a proxy, a server's for the others."""
    made = dict(zip((one.kind for one in ALL), make(tmp_path)[1:], strict=True))
    for kind, one in made.items():
        certificate = certificates.read(one.certificate)
        assert certificates.kinds(certificate) == {kind}
        others: list[Kind] = [other for other in USAGES if other != kind]
        for other in others:
            assert certificates.wrong_kind(certificate, (other,)) is not None


def test_the_numbers_are_small_enough_for_go() -> None:
    """Go (x/crypto/cryptobyte) takes no number of more than 31 bits in a usage: it refuses the whole."""
    assert all(int(part) < 2**31 for usage in USAGES.values() for part in usage.dotted_string.split("."))


def test_modes(tmp_path: Path) -> None:
    """Keys are their owner's alone."""
    for one in make(tmp_path):
        assert (one.key.stat().st_mode & 0o777, one.certificate.stat().st_mode & 0o777) == (0o600, 0o644)


def test_it_can_be_run_again(tmp_path: Path) -> None:
    """Nothing changes, and what is new is added."""
    make(tmp_path)
    before = contents(tmp_path)
    again = make(tmp_path, wanted=[*ALL, Wanted("proxy", "second")])
    assert [one.what for one in again] == ["kept"] * 4 + ["made"]
    assert {name: content for name, content in contents(tmp_path).items() if name in before} == before


@pytest.mark.parametrize(
    ("after", "renew", "what"),
    [
        (200, True, "kept"),
        (200, False, "kept"),
        (260, False, "due"),
        (260, True, "renewed"),
        (400, True, "renewed"),
    ],
)
def test_renewal(tmp_path: Path, after: float, what: str, *, renew: bool) -> None:
    """With a third of its life left or less, by a new key, and only when asked for; past its end as well."""
    before = make(tmp_path)
    old = contents(tmp_path)
    found = make(tmp_path, after, renew=renew)
    assert [one.what for one in found] == ["kept", *[what] * 3]
    changed = {name for name, content in contents(tmp_path).items() if old[name] != content}
    assert len(changed) == (6 if what == "renewed" else 0)
    assert not changed & {"tls_ca.pem", "tls_ca.key"}
    assert (found[1].until > before[1].until) is (what == "renewed")


def test_what_is_refused(tmp_path: Path) -> None:
    """Half a pair, what another authority made, another key, an authority that ended: nothing is written."""
    make(tmp_path)
    whole = contents(tmp_path)

    def refused(match: str, after: float = 0) -> None:
        before = contents(tmp_path)
        with pytest.raises(KeyFileError, match=match):
            make(tmp_path, after, renew=True)
        assert contents(tmp_path) == before
        for name, content in whole.items():
            (tmp_path / name).write_bytes(content)

    (tmp_path / "tls_engine_gpu-0.key").unlink()
    refused("is there without tls_engine_gpu-0.key")
    (tmp_path / "tls_ca.key").write_bytes(whole["tls_proxy_proxy.key"])
    refused("is not the key of")
    (tmp_path / "tls_ca.key").write_bytes(b"no key")
    refused("holds no key in PEM")
    make(tmp_path / "other")
    (tmp_path / "tls_proxy_proxy.pem").write_bytes((tmp_path / "other/tls_proxy_proxy.pem").read_bytes())
    for path in (tmp_path / "other").iterdir():
        path.unlink()
    (tmp_path / "other").rmdir()
    refused("is of another authority")
    refused("has expired; make a new authority", after=4000)
