"""The file of the audit trail: JSON lines, each bound to the one before it by an HMAC.

A line is `{"seq":…, …,"mac":"<64 hex>"}`, where mac = HMAC-SHA256(key, previous mac + the line up to
`,"mac"`). A changed, missing or reordered line breaks the chain. `<path>.head` holds the last seq and
mac, so that a cut tail shows as well.
"""

import fcntl
import hashlib
import hmac
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

_MAC_MARK: Final = b',"mac":"'
_GENESIS: Final = b"\x00" * 32
_BLOCK: Final = 64  # bytes that SHA-256 works on at once
_TAIL: Final = 256 * 1024  # bytes; two records are about 2 KiB
_HEAD_SIZE: Final = 256  # bytes of a head's file, padded: one write replaces it
# Legal in a JSON string as they stand; but terminals obey C1 controls, and some tools split lines at
# U+0085, U+2028 and U+2029.
_CONTROL: Final = re.compile(rb"\x7f|\xc2[\x80-\x9f]|\xe2\x80[\xa8\xa9]")


class AuditFileError(Exception):
    """The file that is there cannot be continued."""


@dataclass(frozen=True, slots=True)
class ChainHead:
    """The end of a chain."""

    seq: int
    mac: bytes


class Chain:
    """Makes the lines of a trail, in order; `seq` and `mac` are those of the last one."""

    def __init__(self, key: bytes, head: ChainHead) -> None:
        self._hmac = _Hmac(key)
        self.seq, self.mac = head.seq, head.mac

    def line(self, time: str, event: str, told: str) -> bytes:
        """The line that tells of an event, by its `members`.

        It cannot be taken back: whoever asks has to write it.
        """
        self.seq += 1
        payload = f'{{"seq":{self.seq},"time":"{time}","event":"{event}"{told}'.encode()
        self.mac = self._hmac.digest(self.mac + payload)
        return b'%b%b%b"}\n' % (payload, _MAC_MARK, self.mac.hex().encode())


class _Hmac:
    """HMAC-SHA256 (RFC 2104). Its two hashes are keyed once, and copied for each message.

    That takes two thirds of the time of copies of `hmac.new`, and half of that of `hmac.digest`.
    """

    def __init__(self, key: bytes) -> None:
        block = (key if len(key) <= _BLOCK else hashlib.sha256(key).digest()).ljust(_BLOCK, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))

    def digest(self, message: bytes) -> bytes:
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(message)
        outer.update(inner.digest())
        return outer.digest()


def members(fields: Mapping[str, Any]) -> str:
    """An object's members in JSON, each after a comma, and printable whatever is in them."""
    try:
        inner = msgspec.json.encode(fields)[1:-1]
    except (TypeError, ValueError, OverflowError):  # lone surrogates, vast integers
        inner = b'"reason":"this record could not be written as JSON"'
    return ("," + _CONTROL.sub(_escape, inner).decode()) if inner else ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `hubgate audit verify` found. `faults` is empty if the trail is whole."""

    records: int
    head: ChainHead
    faults: tuple[str, ...]


def verify(path: Path, key: bytes) -> Verdict:
    """Check each line's place and HMAC, and the exported head. Raises `OSError` if unreadable."""
    faults: list[str] = []
    head = ChainHead(0, _GENESIS)
    macs: dict[int, bytes] = {}
    for number, line in enumerate(_lines(path), start=1):
        found = _read_line(line)
        if found is None:
            faults.append(f"line {number}: is no audit record")
            continue
        seq, payload, mac = found
        if seq != head.seq + 1:
            faults.append(f"line {number}: record {head.seq + 1} is due, {seq} stands here")
        elif not hmac.compare_digest(mac, _mac(key, head.mac, payload)):
            faults.append(f"line {number}: record {seq} was changed, or the key is another one")
        head = ChainHead(seq, mac)
        macs[seq] = mac
    faults += _faults_of_head(path, key, macs)
    return Verdict(len(macs), head, tuple(faults))


def _faults_of_head(path: Path, key: bytes, macs: Mapping[int, bytes]) -> list[str]:
    try:
        exported = _read_head(path, key)
    except AuditFileError as error:
        return [f"{path.name}.head: {error}"]
    if exported is None:
        return [f"{path.name}.head: is missing, so a cut tail would not show"]
    if exported.seq and macs.get(exported.seq) != exported.mac:
        return [f"the head names record {exported.seq}, which the file does not hold: its tail was cut"]
    return []


def records(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a trail, oldest first; lines that are none are passed over."""
    for line in _lines(path):
        try:
            yield msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.DecodeError:
            continue


def _escape(control: "re.Match[bytes]") -> bytes:
    return b"\\u%04x" % ord(control.group().decode())


def _mac(key: bytes, previous: bytes, payload: bytes) -> bytes:
    return hmac.digest(key, previous + payload, "sha256")


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from file


def _read_line(line: bytes) -> tuple[int, bytes, bytes] | None:
    payload, mark, rest = line.rpartition(_MAC_MARK)
    if not mark or len(rest) != 67 or not rest.endswith(b'"}\n'):
        return None
    try:
        seq, mac = int(msgspec.json.decode(payload + b"}")["seq"]), bytes.fromhex(rest[:64].decode())
    except (msgspec.DecodeError, KeyError, TypeError, ValueError):
        return None
    return (seq, payload, mac) if mac.hex().encode() == rest[:64] else None


class Trail(NamedTuple):
    """An open trail. Both files stay open, so that writing takes no descriptor when there is none left."""

    file: FileIO
    head_file: FileIO
    head: ChainHead  # what the file ends with
    end: int  # the offset after it


def open_to_append(path: Path, key: bytes) -> Trail:
    """Open a trail to go on with it after its last whole record. Raises `AuditFileError`, `OSError`.

    Only half a line that a kill left behind is cut off; anything else that does not fit is
    evidence, and stops the start.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    # Unbuffered: after a failed write nothing waits in a buffer to fail once more.
    file = os.fdopen(fd, "r+b", buffering=0)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise AuditFileError(f"{path}: another proxy writes to it; each needs a file of its own") from None
    try:
        head, end = _resume(file, key)
        _compare(head, _read_head(path, key))
    except AuditFileError as error:
        file.close()
        raise AuditFileError(
            f"{path}: {error}. Look with `hubgate audit verify`, then move it and its .head away."
        ) from None
    cut(file, end)
    return Trail(file, _new_head(path, head, key), head, end)


def _compare(head: ChainHead, exported: ChainHead | None) -> None:
    """A head that is behind comes of a kill; one that is ahead, of a cut tail."""
    if exported is not None and exported != head and exported.seq >= head.seq:
        raise AuditFileError(f"its head names record {exported.seq}, which it does not end with")


def _resume(file: FileIO, key: bytes) -> tuple[ChainHead, int]:
    """The head that a file ends with, and the offset after it, from its last two whole lines."""
    size = file.seek(0, os.SEEK_END)
    start = max(0, size - _TAIL)
    file.seek(start)
    tail = file.read()
    whole = tail[: tail.rfind(b"\n") + 1]
    end = start + len(whole)
    lines = whole.splitlines(keepends=True)[-2:]
    if not lines:
        return ChainHead(0, _GENESIS), end
    found = [_read_line(line) for line in lines]
    previous, last = (found[0] if len(found) == 2 else (0, b"", _GENESIS)), found[-1]
    if previous is None or last is None:
        raise AuditFileError("its last lines are no audit records")
    seq, payload, mac = last
    if not hmac.compare_digest(mac, _mac(key, previous[2], payload)):
        raise AuditFileError("its last record was changed, or written with another key")
    return ChainHead(seq, mac), end


def write(file: FileIO, data: bytes) -> None:
    """Write all of it. Raises `OSError`; some of it may then be there."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def cut(file: FileIO, end: int) -> None:
    """Take away what stands after this offset."""
    file.seek(end)
    file.truncate()


def _vouch(key: bytes, seq: int, mac: str) -> str:
    """What makes a head one that only the holder of the key can have written."""
    return hmac.digest(key, f"head {seq} {mac}".encode(), "sha256").hex()


def _new_head(path: Path, head: ChainHead, key: bytes) -> FileIO:
    """Put a head in the place of the one that is there, whole at any moment, and keep it open."""
    scratch = path.with_name(path.name + ".head.new")
    # Unbuffered: a buffer asks the system more often, and each time the threads take turns.
    file = scratch.open("wb", buffering=0)
    try:
        write_head(file, head, key)
        scratch.replace(path.with_name(path.name + ".head"))
    except OSError:
        file.close()
        raise
    return file


def write_head(file: FileIO, head: ChainHead, key: bytes) -> None:
    """Export the end of the chain: one write of always the same bytes of one block. Raises `OSError`."""
    mac = head.mac.hex()
    content = {"seq": head.seq, "mac": mac, "vouch": _vouch(key, head.seq, mac)}
    file.seek(0)
    write(file, msgspec.json.encode(content).ljust(_HEAD_SIZE - 1) + b"\n")


def _read_head(path: Path, key: bytes) -> ChainHead | None:
    """The exported head, `None` if there is none. Raises `AuditFileError` if it is not ours."""
    try:
        return _read_head_once(path, key)
    except AuditFileError:
        return _read_head_once(path, key)  # a proxy may have been in the middle of writing it


def _read_head_once(path: Path, key: bytes) -> ChainHead | None:
    try:
        data = msgspec.json.decode(path.with_name(path.name + ".head").read_bytes())
        head = ChainHead(int(data["seq"]), bytes.fromhex(data["mac"]))
        vouched = hmac.compare_digest(str(data["vouch"]), _vouch(key, head.seq, head.mac.hex()))
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError):
        raise AuditFileError("its head cannot be read") from None
    if not vouched:
        raise AuditFileError("its head was changed, or written with another key")
    return head
