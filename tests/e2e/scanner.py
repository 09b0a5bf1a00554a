"""Looks for secrets where none may be: files, processes, memory, answers."""

import base64
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os.path import commonprefix
from pathlib import Path
from urllib.parse import quote

import psutil

CHUNK = 4 * 1024 * 1024  # bytes of memory read at once
OVERLAP = 1024  # bytes, so that nothing hides across two reads
_ZEROS = bytes(CHUNK + OVERLAP)


@dataclass(frozen=True, slots=True)
class Finding:
    """Where a secret lies, and in which disguise."""

    place: str
    disguise: str


class Scanner:
    """Knows one secret in all the ways it might have been written down."""

    def __init__(self, secret: str) -> None:
        self.needles = dict(_disguises(secret))

    def text(self, place: str, data: bytes) -> list[Finding]:
        """Look through bytes from anywhere."""
        return [Finding(place, how) for how, needle in self.needles.items() if needle in data]

    def files(self, root: Path, *, but: Sequence[Path] = ()) -> list[Finding]:
        """Look through every file below a folder; `but` are those that hold the secret rightly."""
        found: list[Finding] = []
        for path in sorted(root.rglob("*")):
            if path.is_file() and path not in but:
                found += self.text(str(path.relative_to(root)), path.read_bytes())
        return found

    def process(self, process: psutil.Process) -> list[Finding]:
        """Look through a process's command line and environment."""
        found: list[Finding] = []
        for part in ("cmdline", "environ"):
            data = Path(f"/proc/{process.pid}/{part}").read_bytes()
            found += self.text(f"{part} of {process.pid}", data)
        return found


def memory(process: psutil.Process, scanners: Sequence[Scanner]) -> list[Finding]:
    """Look through all writable memory of a process (proc_pid_mem(5)), once for all secrets."""
    found: list[Finding] = []
    starts = _starts(scanners)
    for data in written_memory(process):
        if any(start in data for start in starts):
            for scanner in scanners:
                found += scanner.text(f"memory of {process.pid}", data)
    return found


def _starts(scanners: Sequence[Scanner]) -> set[bytes]:
    """How all secrets begin in each disguise: what holds none of these holds none of them."""
    each = (scanner.needles.values() for scanner in scanners)
    return {commonprefix(needles) for needles in zip(*each, strict=True)}  # noqa: RUF071 - not paths


def written_memory(process: psutil.Process) -> Iterator[bytes]:
    """All writable memory of a process that ever was written, in pieces that overlap."""
    with Path(f"/proc/{process.pid}/mem").open("rb", buffering=0) as source:
        for start, end in _regions(process.pid):
            for offset in range(start, end, CHUNK):
                try:
                    source.seek(offset)
                    data = source.read(min(CHUNK + OVERLAP, end - offset))
                except OSError:
                    break  # a guard page, or unmapped meanwhile
                if data != _ZEROS[: len(data)]:  # most of an idle engine's memory never was
                    yield data


def _disguises(secret: str) -> Iterator[tuple[str, bytes]]:
    raw = secret.encode()
    yield "raw", raw  # a token is letters, digits and _, so `repr` and JSON leave it as it is
    yield "URL-encoded", quote(secret.replace("_", "%5F"), safe="%").encode()
    yield "url-encoded", quote(secret.replace("_", "%5f"), safe="%").encode()
    yield "JSON-escaped", secret.replace("_", "\\u005f").encode()
    yield "hex", raw.hex().encode()
    yield "UTF-16", secret.encode("utf-16-le")
    # base64 of a longer text holds the secret's at one of three alignments; the cut ends are unsure.
    for shift in range(3):
        encoded = base64.b64encode(b"x" * shift + raw)
        inner = encoded[(shift * 4 + 2) // 3 + 1 : -4]
        yield f"base64+{shift}", inner
        yield f"base64url+{shift}", inner.translate(bytes.maketrans(b"+/", b"-_"))


def _regions(pid: int) -> Iterator[tuple[int, int]]:
    maps = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace")
    for line in maps.splitlines():
        match = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
        if match:
            yield int(match[1], 16), int(match[2], 16)
