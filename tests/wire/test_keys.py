"""Key files: made once, read strictly, rotated without a restart."""

import base64
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from joserfc.jwk import KeySet

from hubgate.wire import keygen, keys
from hubgate.wire.keyfile import RECHECK, KeyFile
from hubgate.wire.keys import SETTLE, KeyFileError
from tests.cases import each
from tests.fakes import hostile_json
from tests.fakes.clock import Clock
from tests.fakes.keyring import Keyring

READERS: dict[str, Callable[[Path], object]] = {
    "proxy": keys.load_proxy_keys,
    "backend": keys.load_backend_keys,
    "backend_public": keys.load_backend_public,
    "verifying": keys.load_verifying,
}
CANARY = "Y2FuYXJ5"
BROKEN_PARTS = (
    b'{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "Y2FuYXJ5", "d": "Y2FuYXJ5"},'
    b' {"kty": "OKP", "crv": "X25519", "x": "Y2FuYXJ5", "d": "Y2FuYXJ5"},'
    b' {"kty": "oct", "k": "Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5"}]}'
)
WRONG_TYPES = (
    b'{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "Y2FuYXJ5"}, {"kty": "OKP", "crv": "X25519", "x": 5}]}'
)


@pytest.fixture
def ring(tmp_path: Path) -> Keyring:
    """Fresh key files."""
    return Keyring.make(tmp_path)


def read(path: Path) -> dict[str, Any]:
    """The JSON of a key file."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def thumbs(found: KeySet) -> set[str]:
    """What tells keys apart."""
    return {key.thumbprint() for key in found.keys}


def test_private_files_are_private(ring: Keyring) -> None:
    """Only the owner can read a private key file, and the public halves hold no private part."""
    for private in (ring.proxy_private, ring.backend_private):
        assert private.stat().st_mode & 0o777 == 0o600
    for public in (ring.proxy_public, ring.backend_public):
        for key in read(public)["keys"]:
            assert "d" not in key
            assert key["kty"] == "OKP"


def test_private_files_are_private_under_any_umask(tmp_path: Path) -> None:
    """A permissive umask does not open a private key file."""
    before = os.umask(0)
    try:
        private, _ = keygen.generate_backend(tmp_path / "new" / "folder")
    finally:
        os.umask(before)
    assert private.stat().st_mode & 0o777 == 0o600


def test_a_second_keygen_changes_nothing(ring: Keyring) -> None:
    """What is there is kept; a public half without its private one is somebody else's, and refused."""
    before = ring.proxy_private.read_bytes(), ring.proxy_public.read_bytes()
    assert keygen.generate_proxy(ring.proxy_private.parent) == (ring.proxy_private, ring.proxy_public)
    ring.backend_private.unlink()
    with pytest.raises(KeyFileError, match=r"is there without hubgate_backend\.key"):
        keygen.generate_backend(ring.backend_private.parent)
    assert (ring.proxy_private.read_bytes(), ring.proxy_public.read_bytes()) == before
    assert not ring.backend_private.exists()


def test_a_lost_public_half_is_made_anew(ring: Keyring) -> None:
    """As when keygen was killed between the two files; it holds no private part."""
    for public, generate in (
        (ring.proxy_public, keygen.generate_proxy),
        (ring.backend_public, keygen.generate_backend),
    ):
        before = public.read_bytes()
        public.unlink()
        generate(public.parent)
        assert public.read_bytes() == before


def test_both_pairs_hand_over_their_public_halves(tmp_path: Path) -> None:
    """Each side's folder holds what its configuration names; a key that is added arrives the next time."""
    for _ in range(2):
        keygen.generate_both(tmp_path)
        assert sorted(path.name for path in (tmp_path / "proxy").iterdir()) == [
            "admin.key", "hubgate_backend.pub", "hubgate_proxy.key", "hubgate_proxy.pub", "metrics.key"
        ]  # fmt: skip
        for name, side, other in (
            ("hubgate_proxy.pub", "proxy", "backend"),
            ("hubgate_backend.pub", "backend", "proxy"),
        ):
            handed = (tmp_path / other / name).read_bytes()
            assert handed == (tmp_path / side / name).read_bytes()
            assert b'"d"' not in handed
        keygen.add_proxy(tmp_path / "proxy")


def test_prometheus_has_a_key_of_its_own(tmp_path: Path) -> None:
    """One for /metrics of both sides, that its group may read, and another one for commands; both stay."""
    keygen.generate_both(tmp_path)
    read = (tmp_path / "metrics" / "metrics.key").read_bytes()
    assert (tmp_path / "metrics" / "metrics.key").stat().st_mode & 0o777 == 0o640
    keygen.generate_both(tmp_path)
    for side in ("proxy", "backend", "metrics"):
        assert (tmp_path / side / "metrics.key").read_bytes() == read
    command = tmp_path / "proxy" / "admin.key"
    assert command.read_bytes() != read
    assert command.stat().st_mode & 0o777 == 0o600


def test_both_halves_fit(ring: Keyring) -> None:
    """What one side keeps matches what the other side is handed."""
    assert ring.proxy.signing.thumbprint() in thumbs(ring.proxies)
    assert ring.backend.signing.thumbprint() in thumbs(ring.backend_half.verifying)
    assert ring.backend_half.sealing.thumbprint() in thumbs(ring.backend.opening)


def test_pepper_makes_one_key_per_purpose(ring: Keyring, tmp_path: Path) -> None:
    """Derived keys differ by purpose and by proxy, and stay the same between two reads."""
    proxy = ring.proxy
    assert proxy.derive("sub") == ring.proxy.derive("sub")
    assert len({proxy.derive(name) for name in ("sub", "salt", "fingerprint", "audit")}) == 4
    assert Keyring.make(tmp_path / "other").proxy.derive("sub") != proxy.derive("sub")


@each("reader", READERS)
@each(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'"keys"',
        b"null",
        b'{"keys": 5}',
        b'{"keys": [5]}',
        b'{"keys": []}',
        b'{"keys": [{"crv": "\xff"}]}',
        b'{"keys": [{"kty": "OKP", "crv": "Ed25519"}, {"kty": "OKP", "crv": "X25519"}]}',
        BROKEN_PARTS,
        WRONG_TYPES,
    ],
)
def test_broken_files_are_one_kind_of_error(reader: str, content: bytes, tmp_path: Path) -> None:
    """A broken file is a `KeyFileError` that names the file and quotes nothing of it."""
    path = tmp_path / "broken.key"
    path.write_bytes(content)
    with pytest.raises(KeyFileError) as caught:
        READERS[reader](path)
    assert str(path) in str(caught.value)
    assert CANARY not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize("reader", READERS)
def test_missing_files_say_how_to_make_them(reader: str, tmp_path: Path) -> None:
    """A missing file's error names keygen."""
    with pytest.raises(KeyFileError, match=r"No such file.*hubgate keygen"):
        READERS[reader](tmp_path / "nowhere.key")


@each(
    ("reader", "file"),
    [
        ("proxy", "proxy_public"),
        ("proxy", "backend_private"),
        ("backend", "proxy_private"),
        ("backend", "backend_public"),
        ("backend_public", "backend_private"),
        ("backend_public", "proxy_public"),
        ("verifying", "proxy_private"),
        ("verifying", "backend_private"),
    ],
)
def test_the_wrong_file_is_noticed(reader: str, file: str, ring: Keyring) -> None:
    """A private file where a public one is due, or the other program's, is refused."""
    with pytest.raises(KeyFileError, match="holds no"):
        READERS[reader](getattr(ring, file))


def test_the_half_that_is_missing_is_named(ring: Keyring) -> None:
    """Whoever mixed up two files reads which half was due."""
    with pytest.raises(KeyFileError, match="holds no private X25519 key"):
        keys.load_backend_keys(ring.backend_public)
    with pytest.raises(KeyFileError, match="holds no public Ed25519 key"):
        keys.load_verifying(ring.backend_private)


@pytest.mark.parametrize("pepper", [b"p" * 16, b"p" * 31])
def test_a_short_pepper_is_refused(ring: Keyring, pepper: bytes) -> None:
    """Identity hashes are never made with less than 32 bytes."""
    content = read(ring.proxy_private)
    content["keys"][-1]["k"] = base64.urlsafe_b64encode(pepper).decode().rstrip("=")
    ring.proxy_private.write_text(json.dumps(content))
    with pytest.raises(KeyFileError, match="pepper"):
        _ = ring.proxy


def test_a_pepper_of_32_bytes_will_do(ring: Keyring) -> None:
    """What is refused below that length is taken at it, as `hubgate keygen` makes it."""
    (line,) = [key for key in read(ring.proxy_private)["keys"] if key["kty"] == "oct"]
    assert line["kid"] == "pepper"
    assert ring.proxy.pepper == base64.urlsafe_b64decode(line["k"] + "=")
    assert len(ring.proxy.pepper) == 32


def test_two_peppers_are_refused(ring: Keyring) -> None:
    """Which of them identities are made with is never guessed."""
    content = read(ring.proxy_private)
    content["keys"].append(content["keys"][-1])
    ring.proxy_private.write_text(json.dumps(content))
    with pytest.raises(KeyFileError, match="pepper"):
        _ = ring.proxy


def test_what_keygen_writes(tmp_path: Path) -> None:
    """Ed25519 keys sign, X25519 keys encrypt (RFC 8037), each with name and date; public files are open."""
    before = os.umask(0)
    try:
        ring = Keyring.make(tmp_path)
        made = [path.stat().st_mode & 0o777 for path in (ring.proxy_public, ring.backend_public)]
        assert keygen.add_proxy(tmp_path) == (ring.proxy_private, ring.proxy_public)
        assert keygen.add_backend(tmp_path) == (ring.backend_private, ring.backend_public)
    finally:
        os.umask(before)
    assert made == [0o644, 0o644]
    assert {path.name for path in tmp_path.iterdir()} == {
        f"hubgate_{who}.{half}" for who in ("proxy", "backend") for half in ("key", "pub")
    }
    for path, curves in (
        (ring.proxy_public, ["Ed25519"] * 2),
        (ring.backend_public, ["Ed25519", "X25519"] * 2),
    ):
        assert path.stat().st_mode & 0o777 == 0o644
        assert path.with_suffix(".key").stat().st_mode & 0o777 == 0o600
        found = read(path)["keys"]
        assert [key["crv"] for key in found] == curves
        for key in found:
            assert key["use"] == {"Ed25519": "sig", "X25519": "enc"}[key["crv"]]
            assert re.fullmatch("[0-9a-f]{16}", key["kid"])
            assert key["iat"] > 1_700_000_000
        private = [key for key in read(path.with_suffix(".key"))["keys"] if key["kty"] == "OKP"]
        assert [{k: v for k, v in key.items() if k != "d"} for key in private] == found


def test_a_supervisors_key_signs() -> None:
    """The key of one boot is an Ed25519 key with a name, as the others are."""
    made = keygen.generate_supervisor().as_dict(private=False)
    assert (made["crv"], made["use"]) == ("Ed25519", "sig")
    assert made["kid"]


@pytest.mark.parametrize(("seconds", "settled"), [(9.9, False), (10, True)])
def test_ten_seconds_settle_a_key(
    ring: Keyring, monkeypatch: pytest.MonkeyPatch, seconds: float, settled: bool
) -> None:
    """A new key signs ten seconds after it was made, and not before."""
    old = ring.proxy.signing.thumbprint()
    age(ring.proxy_private, 100)
    keygen.add_proxy(ring.proxy_private.parent)
    made = max(key["iat"] for key in read(ring.proxy_private)["keys"] if "iat" in key)
    monkeypatch.setattr(keys, "time", SimpleNamespace(time=lambda: made + seconds))
    assert (ring.proxy.signing.thumbprint() != old) is settled


def test_the_oldest_key_signs_while_none_has_settled(ring: Keyring, tmp_path: Path) -> None:
    """A file of new keys only is used at once: the oldest of them, wherever it stands."""
    others = [read(Keyring.make(tmp_path / name).proxy_private)["keys"][0] for name in ("a", "b", "c")]
    future = 4_000_000_000
    dated = [{**key, "iat": future + n} for key, n in zip(others, (2, 1, 3), strict=True)]
    pepper = read(ring.proxy_private)["keys"][-1]
    ring.proxy_private.write_text(json.dumps({"keys": [*dated, pepper]}))
    assert ring.proxy.signing.kid == others[1]["kid"]


def test_a_key_without_a_date_is_older_than_any(ring: Keyring, tmp_path: Path) -> None:
    """A key that another tool made has no date: it counts, and a dated one that has settled signs."""
    other = read(Keyring.make(tmp_path / "other").proxy_private)["keys"][0]
    content = read(ring.proxy_private)
    dated = {**content["keys"][0], "iat": 1}
    bare = {name: value for name, value in other.items() if name != "iat"}
    for lines, signs in (([dated, bare], dated), ([bare, dated], dated), ([bare], bare)):
        ring.proxy_private.write_text(json.dumps({"keys": [*lines, content["keys"][-1]]}))
        assert ring.proxy.signing.kid == signs["kid"]


def age(path: Path, seconds: int) -> None:
    """Make every key of a file older."""
    content = read(path)
    content["keys"] = [
        {**key, "iat": key["iat"] - seconds} if "iat" in key else key for key in content["keys"]
    ]
    path.write_text(json.dumps(content))


def test_a_new_key_signs_once_it_has_settled_and_all_are_accepted(ring: Keyring) -> None:
    """An added key verifies at once, and signs when the other side had time to learn of it."""
    old = ring.proxy.signing.thumbprint()
    keygen.add_proxy(ring.proxy_private.parent)
    assert ring.proxy.signing.thumbprint() == old
    assert len(thumbs(ring.proxies)) == 2
    age(ring.proxy_private, int(SETTLE))
    new = ring.proxy.signing.thumbprint()
    assert new != old
    assert thumbs(ring.proxies) == {old, new}


def test_adding_keeps_the_pepper_and_the_mode(ring: Keyring) -> None:
    """Pseudonyms in the audit survive a rotation, and the private file stays private."""
    pepper = ring.proxy.pepper
    keygen.add_proxy(ring.proxy_private.parent)
    assert ring.proxy.pepper == pepper
    assert ring.proxy_private.stat().st_mode & 0o777 == 0o600


def test_a_backend_opens_with_old_and_new_keys(ring: Keyring) -> None:
    """What was sealed before a rotation can still be opened, and so can what is sealed after."""
    keygen.add_backend(ring.backend_private.parent)
    assert len(thumbs(ring.backend.opening)) == 2
    sealing = {ring.backend_half.sealing.thumbprint()}
    age(ring.backend_public, int(SETTLE))
    sealing.add(ring.backend_half.sealing.thumbprint())
    assert sealing == thumbs(ring.backend.opening)


def test_nothing_is_added_to_files_that_are_not_there(tmp_path: Path) -> None:
    """A rotation in the wrong folder says so instead of making new identities."""
    with pytest.raises(KeyFileError, match="keygen"):
        keygen.add_proxy(tmp_path)


def test_an_age_that_is_no_number_is_refused(ring: Keyring, tmp_path: Path) -> None:
    """Which key is newest is never guessed."""
    other = read(Keyring.make(tmp_path / "other").proxy_private)["keys"][0]
    content = read(ring.proxy_private)
    content["keys"].append({**other, "iat": "soon"})
    ring.proxy_private.write_text(json.dumps(content))
    with pytest.raises(KeyFileError, match="iat"):
        _ = ring.proxy


def test_a_rotated_file_is_read_anew(ring: Keyring, tmp_path: Path) -> None:
    """A file that changed counts from the next look on, at most a second later."""
    clock = Clock()
    file = KeyFile(ring.proxy_public, keys.load_verifying, clock)
    first = file.current()
    assert file.current() is first
    other = Keyring.make(tmp_path / "other")
    other.proxy_public.replace(ring.proxy_public)
    clock.advance(RECHECK / 2)
    assert file.current() is first
    clock.advance(RECHECK / 2)
    assert thumbs(file.current()) == {other.proxy.signing.thumbprint()}
    assert file.fault is None


@each(
    "broken",
    [
        *hostile_json.DOCUMENTS.values(),
        *hostile_json.beside(b'"keys":[]').values(),
        b'{"keys": [',
        b'{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "AA"}]}',
    ],
)
def test_a_half_written_file_does_not_lock_out(ring: Keyring, broken: bytes) -> None:
    """While the file cannot be read the last good keys count, and `fault` says why."""
    clock = Clock()
    file = KeyFile(ring.proxy_public, keys.load_verifying, clock)
    good = ring.proxy_public.read_bytes()
    ring.proxy_public.write_bytes(broken)
    clock.advance(RECHECK)
    before = thumbs(file.current())
    assert file.fault is not None
    assert before
    ring.proxy_public.unlink()
    clock.advance(RECHECK)
    assert thumbs(file.current()) == before
    ring.proxy_public.write_bytes(good)
    clock.advance(RECHECK)
    assert thumbs(file.current()) == before
    assert file.fault is None
