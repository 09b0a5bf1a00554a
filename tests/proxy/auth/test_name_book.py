"""Names over restarts: what the file holds, what a crash may do to it, and what is not believed."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from unittest.mock import patch

import pytest

from hubgate.proxy.auth import name_book
from hubgate.proxy.auth.name_book import NameBook, NameBookError
from tests.cases import each

Open = Callable[[], NameBook]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl.names"


@pytest.fixture
async def book(path: Path) -> AsyncIterator[Open]:
    """Opens the book anew, as a restart does."""
    async with AsyncExitStack() as stack:

        def opened() -> NameBook:
            book = NameBook(path)
            stack.push_async_callback(book.close)
            return book

        yield opened


def write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def content(path: Path) -> bytes:
    return path.read_bytes()


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_names_outlive_a_restart(book: Open, path: Path) -> None:
    """Who had which name, and whose it is, is the same afterwards."""
    first = book()
    first.keep("user", "alice", "1")
    first.see("user", "alicia", "1", always=False)
    first.see("org", "alice", "1", always=False)
    await first.save()
    again = book()
    assert set(again.names("user", "1")) == {"alice", "alicia"}
    assert set(again.names("org", "1")) == {"alice"}
    assert (again.owner("user", "alice"), again.owner("user", "alicia")) == ("1", None)
    assert name_book.read(path) == {"user:alice": "1"}


def test_where_the_names_are(tmp_path: Path) -> None:
    """Beside the trail, under its name; before the first start there are none."""
    assert name_book.beside(tmp_path / "audit.jsonl") == tmp_path / "audit.jsonl.names"
    assert name_book.read(tmp_path / "audit.jsonl.names") == {}


async def test_the_file_is_its_owners_alone(book: Open, path: Path) -> None:
    """It tells who uses the service."""
    book()
    assert mode(path) == 0o600


async def test_what_is_known_is_not_written_again(book: Open, path: Path) -> None:
    """The file grows by what is new, and not by requests."""
    first = book()
    for _ in range(3):
        first.keep("user", "alice", "1")
        first.see("user", "alice", "1", always=True)
        await first.save()
    assert content(path) == b'{"kind":"user","name":"alice","id":"1","kept":true}\n'


@pytest.mark.parametrize("half", [b"{", b'{"kind":"user","name":"bob","id":"2"}', b"\0\0\0"])
async def test_half_a_line_is_of_a_kill(book: Open, path: Path, half: bytes) -> None:
    """It was never finished, so that nobody was let in because of it: it gives way to the next line."""
    write(path, b'{"kind":"user","name":"alice","id":"1"}\n' + half)
    found = book()
    assert (set(found.names("user", "1")), set(found.names("user", "2"))) == ({"alice"}, set())
    found.see("user", "eve", "3", always=True)
    await found.save()
    assert set(book().names("user", "3")) == {"eve"}


@each(
    "line",
    [
        b"",
        b"{}",
        b"\0\0\0",
        b"[]",
        b"\xff",
        b'{"kind":"team","name":"a","id":"1"}',
        b'{"kind":"user","name":"a","id":1}',
        b'{"kind":"user","name":"a","id":"1","more":1}',
        b'{"kind":"user","name":"a","id":"1"}{"kind":"user","name":"b","id":"1"}',
    ],
)
def test_a_damaged_file_is_not_guessed_at(path: Path, line: bytes) -> None:
    """A line that is none stops the start: whose the names are is then not known."""
    path.write_bytes(b'{"kind":"user","name":"alice","id":"1"}\n' + line + b"\n")
    with pytest.raises(NameBookError, match="line 2 is damaged"):
        NameBook(path)
    with pytest.raises(NameBookError, match="line 2 is damaged"):
        name_book.read(path)


async def test_what_could_not_be_written_is_written_later(book: Open, path: Path) -> None:
    """A full disk leaves half a line; when there is room, the whole of it takes its place."""
    first = book()
    first.keep("user", "alice", "1")
    pwrite = os.pwrite

    def full(fd: int, data: bytes, offset: int) -> int:
        pwrite(fd, data[:5], offset)
        raise OSError(28, "No space left on device")

    with patch.object(os, "pwrite", full):
        for _ in range(2):
            with pytest.raises(OSError, match="No space"):
                await first.save()
            assert not first.saved("user", "alice")
    first.see("user", "bob", "2", always=True)
    await first.save()
    assert first.saved("user", "alice")
    assert (book().owner("user", "alice"), set(book().names("user", "2"))) == ("1", {"bob"})


async def test_those_who_come_together_are_written_together(book: Open, path: Path) -> None:
    """A crowd of new callers waits for two writes, that under way and its own, and not for one each."""
    first = book()
    synced: list[int] = []

    async def come(number: int) -> None:
        first.keep("user", f"u{number}", str(number))
        await first.save()
        assert f'"u{number}"'.encode() in content(path)

    with patch.object(os, "fdatasync", synced.append):
        await asyncio.gather(*(come(number) for number in range(50)))
    assert len(synced) == 2
    assert len(name_book.read(path)) == 50


async def test_memory_is_bounded(book: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the capacity only what the configuration names is remembered; nothing is forgotten for it.

    Organizations, of which one caller may have many, take no user's place.
    """
    monkeypatch.setattr(name_book, "CAPACITY", 3)
    first = book()
    for number in range(6):
        first.see("org", f"o{number}", str(number), always=False)
    for number in range(6):
        first.see("user", f"u{number}", str(number), always=False)
    first.see("user", "mallory", "9", always=True)
    remembered = [number for number in range(10) if first.names("user", str(number))]
    assert remembered == [0, 1, 2, 9]


async def test_nothing_is_written_after_the_end(book: Open, path: Path) -> None:
    """A proxy that ends saves no more: the number of its file may be another file's by then."""
    first = NameBook(path)
    await first.close()
    first.keep("user", "alice", "1")
    with patch("os.pwrite", wraps=os.pwrite) as written, pytest.raises(OSError, match="Bad file descriptor"):
        await first.save()
    assert content(path) == b""
    assert written.call_args[0][0] < 0


async def test_a_line_in_several_parts(book: Open, path: Path) -> None:
    """The system may take less than it is given; the rest follows where it stopped."""
    first = book()
    first.keep("user", "alice", "1")
    first.see("user", "alicia", "1", always=True)
    pwrite = os.pwrite
    with patch("os.pwrite", lambda fd, data, offset: pwrite(fd, data[:7], offset)):
        await first.save()
    lines = [
        b'{"kind":"user","name":"alice","id":"1","kept":true}',
        b'{"kind":"user","name":"alicia","id":"1"}',
    ]
    assert content(path) == b"\n".join([*lines, b""])


async def test_a_new_file_is_on_the_disk_with_its_folder(path: Path) -> None:
    """Else a power cut could take the whole of it."""
    folders: list[int] = []
    with patch("os.fsync", lambda fd: folders.append(os.fstat(fd).st_ino)):
        await NameBook(path).close()
    assert folders == [path.parent.stat().st_ino]


async def test_no_file_stays_open(path: Path) -> None:
    """Neither after the end, nor where the file is no good."""
    before = descriptors()
    await NameBook(path).close()
    write(path, b"{}\n")
    with pytest.raises(NameBookError):
        NameBook(path)
    assert descriptors() == before
