"""What is wrong with a file that holds a secret or a key, in words that never repeat anything of it."""

import errno
import os
import re
import stat
from pathlib import Path
from typing import Final

MAX: Final = 64 * 1024  # bytes that are read of what should be one line

_BOMS: Final = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")  # UTF-8, UTF-16 either way
_QUOTES: Final = "\"'`\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}"
# Not the padding of Base64, which stands at the end.
_ASSIGNED: Final = re.compile(r"(?:export\s+)?[A-Za-z_][A-Za-z0-9_]*=[^=].*", re.DOTALL)
_PLAIN: Final = re.compile(r"[!-~]+", re.ASCII)


def unreadable(path: Path, error: OSError) -> str:
    """Why it cannot be read, after its name; where that is not allowed, to whom it is, and who asks."""
    if isinstance(error, IsADirectoryError):
        return f"{path}: is a directory; where the file of a mount is missing, Docker makes one in its place"
    if error.errno not in {errno.EACCES, errno.EPERM}:
        return f"{path}: {error.strerror}"
    folders = reversed(path.absolute().parents)
    blamed = next((folder for folder in folders if not os.access(folder, os.X_OK)), path)
    reason = "it may not be read" if blamed == path else f"the folder {blamed} may not be entered"
    return f"{path}: {reason}: {_permissions(blamed)}, and this process runs as uid {os.geteuid()}"


def misplaced(data: bytes) -> str:
    """Why what a file has at its beginning is no text; "" if nothing is wrong with it."""
    if not data.strip():
        return "is empty"
    if data.startswith(_BOMS):
        return "begins with a byte order mark; save it as plain text, UTF-8 without BOM"
    return ""


def no_secret(text: str) -> str:
    """Why a text without the white space around it cannot be a secret; "" if nothing is wrong with it."""
    if not text:
        return "is empty"
    if text.startswith("\N{ZERO WIDTH NO-BREAK SPACE}"):
        return misplaced(_BOMS[0] + b"x")
    if text[0] in _QUOTES or text[-1] in _QUOTES:
        return "is in quotes; write it without (docker's --env-file keeps them)"
    if text.lower().startswith("bearer "):
        return "begins with Bearer; write what follows alone"
    if _ASSIGNED.fullmatch(text):
        return "reads NAME=VALUE; write the value alone"
    if "\n" in text or "\r" in text:
        return "has several lines; write one"
    if not _PLAIN.fullmatch(text):
        return "holds a space, or a character that is not ASCII"
    return ""


def read_line(path: Path) -> tuple[str, str]:
    """The one line of a file, and "" or why there is none, after the file's name."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX)
    except OSError as error:
        return "", unreadable(path, error)
    text = data.decode("utf-8", "replace").strip()
    fault = misplaced(data) or no_secret(text)
    return ("", f"{path}: {fault}") if fault else (text, "")


def _permissions(path: Path) -> str:
    try:
        found = path.stat()
    except OSError:
        return "its permissions cannot be seen"
    mode = f"{stat.S_IMODE(found.st_mode):04o}"
    return f"its mode is {mode}, its owner uid {found.st_uid} and its group gid {found.st_gid}"
