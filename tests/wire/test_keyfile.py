"""When a key file is read anew, counted on a clock of the test's own."""

import os
from pathlib import Path

import pytest

from hubgate.wire.keyfile import KeyFile
from hubgate.wire.keys import KeyFileError, load_proxy_keys
from tests.fakes.clock import Clock
from tests.fakes.descriptors import no_descriptor_left
from tests.fakes.keyring import Keyring

SETTLED = 11  # seconds: the time that a new key waits (10), and one look more


class Reader:
    """Reads a file as text, and counts how often."""

    def __init__(self) -> None:
        self.reads = 0
        self.broken = False

    def __call__(self, path: Path) -> str:
        self.reads += 1
        text = path.read_text()
        if self.broken or text == "broken":
            raise KeyFileError("broken")
        return text


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "key"
    found.write_text("old")
    return found


def _reads(file: KeyFile[str], reader: Reader, clock: Clock, seconds: int) -> int:
    """How often it is read while somebody uses it four times a second."""
    before = reader.reads
    for _ in range(seconds * 4):
        clock.advance(0.25)
        file.current()
    return reader.reads - before


def test_it_is_read_each_second_until_its_keys_have_settled(path: Path) -> None:
    """A key gets older in a file that does not change: it is read until all of them count, then no more."""
    clock, reader = Clock(), Reader()
    file = KeyFile(path, reader, clock)
    assert reader.reads == 1
    assert _reads(file, reader, clock, SETTLED) == SETTLED
    assert _reads(file, reader, clock, 10) == 0


def test_a_change_is_read_each_second_until_it_has_settled(path: Path) -> None:
    """What is written after that counts within a second, and settles as the first did."""
    clock, reader = Clock(), Reader()
    file = KeyFile(path, reader, clock)
    _reads(file, reader, clock, SETTLED + 5)
    path.write_text("newer")
    assert _reads(file, reader, clock, SETTLED + 1) == SETTLED + 1
    assert file.current() == "newer"
    assert _reads(file, reader, clock, 10) == 0


def test_a_change_that_is_undone_is_no_fault(path: Path) -> None:
    """A broken file that is replaced by the very one from before is good again, long after it settled."""
    clock, reader = Clock(), Reader()
    file = KeyFile(path, reader, clock)
    _reads(file, reader, clock, SETTLED + 5)
    kept = path.with_name("kept")
    path.rename(kept)
    path.write_text("broken")
    _reads(file, reader, clock, SETTLED + 5)
    assert (file.fault, file.current()) == ("broken", "old")
    kept.replace(path)
    _reads(file, reader, clock, SETTLED + 5)
    assert (file.fault, file.current()) == (None, "old")


def test_any_trait_of_a_file_tells_its_version(path: Path) -> None:
    """The same length at the same time in another file, or at another time in the same one, is a change."""
    clock, reader = Clock(), Reader()
    file = KeyFile(path, reader, clock)
    _reads(file, reader, clock, SETTLED + 5)
    stat = path.stat()
    other = path.with_name("other")
    other.write_text("dlo")
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other.replace(path)
    _reads(file, reader, clock, 1)
    assert file.current() == "dlo"
    _reads(file, reader, clock, SETTLED + 5)
    path.write_text("lod")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    _reads(file, reader, clock, 1)
    assert file.current() == "lod"


def test_a_file_that_cannot_be_read_is_tried_until_it_can(path: Path) -> None:
    """A read that fails although the file did not change is repeated, however old its keys are."""
    clock, reader = Clock(), Reader()
    file = KeyFile(path, reader, clock)
    stat = path.stat()
    path.write_text("bro")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    reader.broken = True
    _reads(file, reader, clock, SETTLED + 5)
    assert (file.fault, file.current()) == ("broken", "old")
    reader.broken = False
    _reads(file, reader, clock, 1)
    assert (file.fault, file.current()) == (None, "bro")


def test_without_a_descriptor_the_last_good_keys_count(tmp_path: Path) -> None:
    """A rotation while connections have taken all of them is a fault, and caught up with afterwards."""
    first, second = Keyring.make(tmp_path / "first"), Keyring.make(tmp_path / "second")
    clock, path = Clock(), tmp_path / "proxy.key"
    first.proxy_private.rename(path)
    file = KeyFile(path, load_proxy_keys, clock)
    before = file.current()
    other = second.proxy
    second.proxy_private.rename(path)
    with no_descriptor_left():
        clock.advance(1)
        assert file.current() is before
        assert file.fault
    clock.advance(1)
    assert file.current().derive("sub") == other.derive("sub")
    assert not file.fault
