"""Forms with one file (RFC 7578): taken apart as they come, and written anew.

The fields come first and are small, the file comes last and is of any size: so what decides about the
request is known before its bulk is read. What of a form goes on is what was understood of it, between
boundaries of ours, so that no second reader can find other parts in it.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from hubgate.proxy.errors import Denied

FILE: Final = "file"
MAX_FIELDS: Final = 64
MAX_FIELDS_SIZE: Final = 64 * 1024  # bytes of all fields together, their names included
MAX_HEADERS: Final = 8  # of one part
MAX_HEADER: Final = 4 * 1024  # bytes of one of them
MAX_PARAMETERS: Final = 16  # of one; the parser takes half a microsecond for each, be it empty

Values = dict[str, Any]

logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it warns of every faulty form

_BOUNDARY: Final = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")  # RFC 2046, 5.1.1
_NAME: Final = re.compile(rb"([A-Za-z0-9_.-]{1,64})((?:\[\w*\])*)")
_EXTENSION: Final = re.compile(rb".*\.([A-Za-z0-9]{1,8})", re.DOTALL)
# Not `multipart/*`, and nothing with parameters; `application/ogg` and `application/mp4` are RFC 5334, 4337.
_RECORDING: Final = re.compile(
    rb"(?:audio|video)/[a-z0-9][a-z0-9.+-]{0,63}|application/(?:octet-stream|ogg|mp4)"
)
_PLAIN: Final = (b"7bit", b"8bit", b"binary")


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """What is told of the file: a name that is ours but for the extension, and a media type of a few."""

    name: str
    media: str


class _RefusedError(Exception):
    """Carries a refusal out of the parser's callbacks."""

    def __init__(self, denied: Denied) -> None:
        super().__init__(denied.message)
        self.denied = denied


class Form:
    """One form, fed in pieces of any size.

    `fields` are complete once `file` is known; a name with brackets (`a[]`) may stand several times and
    is a list under the name without. `ended` says that the closing boundary came: what follows it is no part
    of the form (RFC 2046, section 5.1.1).
    """

    def __init__(self, boundary: bytes) -> None:
        self.fields: Values = {}
        self.file: UploadedFile | None = None
        self.ended = False
        self._name = ""
        self._several = False
        self._value = bytearray()
        self._content: list[bytes] = []
        self._headers: dict[bytes, bytes] = {}
        self._header = (bytearray(), bytearray())  # name and value of the one that is being read
        self._count = 0
        self._size = 0
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._part_begins,
                "on_part_data": self._part_data,
                "on_part_end": self._part_ends,
                "on_header_field": self._header_field,
                "on_header_value": self._header_value,
                "on_header_end": self._header_ends,
                "on_headers_finished": self._headers_end,
                "on_end": self._ends,
            },
            max_header_count=MAX_HEADERS,
            max_header_size=MAX_HEADER,
        )

    def feed(self, data: bytes) -> Denied | None:
        """Take the next bytes; after a refusal nothing more."""
        try:
            self._parser.write(data)
        except FormParserError:
            return malformed()
        except _RefusedError as error:
            return error.denied
        return None

    def take(self) -> bytes:
        """The bytes of the file that came since the last time."""
        content, self._content = self._content, []
        return content[0] if len(content) == 1 else b"".join(content)

    # Called by the parser.

    def _part_begins(self) -> None:
        if self.file is not None:
            raise _refused("Put every field before `file`, which is one and the last part of the form.")
        self._count += 1
        if self._count > MAX_FIELDS + 1:
            raise _refused(f"A form may have {MAX_FIELDS} fields at most.")
        self._headers = {}
        self._value = bytearray()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header[0].extend(data[start:end])

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1].extend(data[start:end])

    def _header_ends(self) -> None:
        name, value = bytes(self._header[0]).lower(), bytes(self._header[1])
        self._header = (bytearray(), bytearray())
        if name in self._headers or any(byte < 0x20 and byte != 0x09 for byte in value):
            raise _RefusedError(malformed())
        if value.count(b";") > MAX_PARAMETERS:
            raise _RefusedError(malformed())
        self._headers[name] = value

    def _headers_end(self) -> None:
        kind, told = parse_options_header(self._headers.get(b"content-disposition"))
        name = _NAME.fullmatch(told.get(b"name", b""))
        if kind != b"form-data" or name is None:
            raise _RefusedError(malformed())
        if self._headers.get(b"content-transfer-encoding", b"binary").lower() not in _PLAIN:
            raise _refused("Send the parts of a form without a transfer encoding.")  # RFC 7578, section 4.7
        if name[0] == FILE.encode():
            self._open(told.get(b"filename", b""))
            return
        if b"filename" in told or name[1] == FILE.encode():
            raise _refused("A form carries one file, under the name `file`.")
        media, more = parse_options_header(self._headers.get(b"content-type", b"text/plain"))
        if media != b"text/plain" or more.get(b"charset", b"utf-8").lower() not in (b"utf-8", b"us-ascii"):
            raise _refused("The fields of a form are plain text in UTF-8.")
        self._name, self._several = name[1].decode(), bool(name[2])
        self._grow(len(name[0]))

    def _open(self, filename: bytes) -> None:
        if "model" not in self.fields:
            raise _refused("Put `model`, and every other field, before `file`.", "model")
        media = self._headers.get(b"content-type", b"application/octet-stream").partition(b";")[0]
        if not _RECORDING.fullmatch(media := media.strip().lower()):
            raise _refused("The media type of `file` must be one of audio or video.", FILE)
        extension = _EXTENSION.fullmatch(filename)
        name = f"recording.{extension[1].decode()}" if extension else "recording"
        self.file = UploadedFile(name, media.decode())

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self.file is not None:
            self._content.append(data[start:end])
            return
        self._grow(end - start)
        self._value += data[start:end]

    def _part_ends(self) -> None:
        if self.file is not None:
            return
        try:
            value = self._value.decode("utf-8")
        except UnicodeDecodeError:
            raise _refused("The fields of a form are plain text in UTF-8.", self._name) from None
        known = self.fields.get(self._name)
        if known is None:
            self.fields[self._name] = [value] if self._several else value
        elif self._several and isinstance(known, list):
            known.append(value)
        else:
            raise _refused("A field stands twice in the form; each may stand once.", self._name)

    def _ends(self) -> None:
        self.ended = True

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > MAX_FIELDS_SIZE:
            raise _refused(f"The fields of a form may be {MAX_FIELDS_SIZE} bytes long in all.")


def boundary(content_type: str) -> bytes | None:
    """What parts the parts, by the `Content-Type` header; `None` if it does not say."""
    if content_type.count(";") > MAX_PARAMETERS:
        return None
    media, more = parse_options_header(content_type)
    found = more.get(b"boundary", b"")
    return found if media == b"multipart/form-data" and _BOUNDARY.fullmatch(found) else None


def opening(values: Mapping[str, Any], file: UploadedFile, parted: str) -> bytes:
    """A form up to the first byte of its file. `parted` must stand in none of the values."""
    texts = [
        (f"{name}[]" if isinstance(value, list) else name, _text(one))
        for name, value in values.items()
        for one in (value if isinstance(value, list) else [value])
    ]
    parts = [
        f'--{parted}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n'
        for name, text in texts
    ]
    return (
        "".join(parts)
        + f'--{parted}\r\nContent-Disposition: form-data; name="{FILE}"; filename="{file.name}"'
        f"\r\nContent-Type: {file.media}\r\n\r\n"
    ).encode()


def closing(parted: str) -> bytes:
    """What follows the last byte of the file."""
    return f"\r\n--{parted}--\r\n".encode()


def malformed() -> Denied:
    """The bytes are no form, or no whole one."""
    return Denied("invalid_request", "The body is not a whole form (RFC 7578, multipart/form-data).")


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _refused(message: str, param: str | None = None) -> _RefusedError:
    return _RefusedError(Denied("invalid_request", message, param))
