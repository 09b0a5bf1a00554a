"""Whatever one changes in an audit trail, `verify` finds it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubgate.proxy.audit import chain
from hubgate.proxy.audit.chain import AuditFileError
from hubgate.proxy.audit.writer import AuditWriter
from hubgate.proxy.metrics.registry import Metrics
from tests.fakes.clock import Clock
from tests.fakes.trail import KEY, write

RECORDS = 6


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole trail."""
    path = tmp_path_factory.mktemp("audit") / "audit.jsonl"
    written = AuditWriter(path, KEY, Metrics(), required=True, now=Clock())
    written.start()
    for number in range(RECORDS):
        written.record("request.done", {"user": "alice", "number": number, "model": "demo/tiny"})
    written.close()
    assert chain.verify(path, KEY).faults == ()
    return path


def faults(good: Path, lines: bytes, head: bytes | None = None) -> tuple[str, ...]:
    """What `verify` says of other bytes in place of the trail's."""
    path = good.with_name("tampered.jsonl")
    path.write_bytes(lines)
    exported = good.with_name("audit.jsonl.head").read_bytes()
    path.with_name("tampered.jsonl.head").write_bytes(exported if head is None else head)
    return chain.verify(path, KEY).faults


@given(place=st.integers(0, 10**6), byte=st.integers(0, 255))
def test_a_changed_byte_is_found(good: Path, place: int, byte: int) -> None:
    """Any byte that becomes another one is found, upper case in a MAC included."""
    lines = bytearray(good.read_bytes())
    place %= len(lines)
    if lines[place] == byte:
        return
    lines[place] = byte
    assert faults(good, bytes(lines))


def test_upper_case_in_a_mac_is_found(good: Path) -> None:
    """A MAC is written in one way only, so that no byte of a line is free."""
    lines = good.read_bytes()
    mac = lines.rstrip()[-66:-2]
    assert mac.upper() != mac
    assert faults(good, lines.replace(mac, mac.upper()))


@given(place=st.integers(0, 10**6), size=st.integers(1, 40))
def test_removed_bytes_are_found(good: Path, place: int, size: int) -> None:
    """Bytes that are cut out anywhere are found."""
    lines = good.read_bytes()
    place %= len(lines)
    assert faults(good, lines[:place] + lines[place + size :])


@given(place=st.integers(0, 10**6), more=st.binary(min_size=1, max_size=40))
def test_added_bytes_are_found(good: Path, place: int, more: bytes) -> None:
    """Bytes that are put in anywhere are found."""
    lines = good.read_bytes()
    place %= len(lines) + 1
    assert faults(good, lines[:place] + more + lines[place:])


@given(st.permutations(range(RECORDS)))
def test_reordered_lines_are_found(good: Path, order: list[int]) -> None:
    """Any other order of the lines is found."""
    lines = good.read_bytes().splitlines(keepends=True)
    shuffled = b"".join(lines[index] for index in order)
    assert bool(faults(good, shuffled)) == (order != sorted(order))


@given(st.sets(st.integers(0, RECORDS - 1), min_size=1), st.integers(1, 3))
def test_deleted_and_doubled_lines_are_found(good: Path, chosen: set[int], times: int) -> None:
    """Lines that are gone or stand there again are found, the last ones by the exported head."""
    lines = good.read_bytes().splitlines(keepends=True)
    without = b"".join(line for index, line in enumerate(lines) if index not in chosen)
    assert faults(good, without)
    doubled = b"".join(line * (times + 1) if index in chosen else line for index, line in enumerate(lines))
    assert faults(good, doubled)


@given(place=st.integers(0, 10**6), digit=st.sampled_from(b"0123456789abcdef"))
def test_a_changed_head_is_found(good: Path, place: int, digit: int) -> None:
    """A head that names a record of another content is found."""
    head = bytearray(good.with_name("audit.jsonl.head").read_bytes())
    start = head.index(b'"mac":"') + 7
    place = start + place % 64
    if head[place] == digit:
        return
    head[place] = digit
    assert faults(good, good.read_bytes(), bytes(head))


@pytest.mark.parametrize("head", [b"", b"{}", b"5", b'{"seq":6}', b'{"seq":"x","mac":"zz"}', b"\xff"])
def test_a_head_that_cannot_be_read_is_told(good: Path, head: bytes) -> None:
    """Without its head a cut tail would not show, and that is said."""
    assert "head" in faults(good, good.read_bytes(), head)[0]


def test_faults_name_lines_and_quote_nothing(good: Path) -> None:
    """A fault says where, and repeats none of what stands there."""
    lines = good.read_bytes().replace(b'"number":2', b'"number":\x1b')
    found = faults(good, lines)
    assert any(fault.startswith("line 3:") for fault in found)
    assert all(fault.isprintable() for fault in found)


def cut(path: Path) -> None:
    """Take the last line away."""
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


def empty(path: Path) -> None:
    """Take every line away."""
    path.write_bytes(b"")


def change(path: Path) -> None:
    """Change the last record."""
    path.write_bytes(path.read_bytes().replace(b"carol", b"mallo"))


def append(path: Path) -> None:
    """Add a line that nobody could sign."""
    path.write_bytes(path.read_bytes() + b'{"seq":4,"mac":"' + b"0" * 64 + b'"}\n')


def babble(path: Path) -> None:
    """Add a line that is no record."""
    path.write_bytes(path.read_bytes() + b"hello\n")


@pytest.mark.parametrize("tamper", [cut, empty, change, append, babble])
def test_a_trail_that_was_tampered_with_refuses_to_start(
    tmp_path: Path, tamper: Callable[[Path], None]
) -> None:
    """A cut, emptied, changed or forged end is evidence: it stops the start and is left as it is."""
    path = tmp_path / "audit.jsonl"
    write(path, "alice", "bob", "carol")
    tamper(path)
    evidence = path.read_bytes()
    with pytest.raises(AuditFileError, match="move it"):
        AuditWriter(path, KEY, Metrics(), required=True, now=Clock())
    assert path.read_bytes() == evidence
    assert chain.verify(path, KEY).faults
