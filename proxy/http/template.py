"""Heads that come again: whoever keeps a connection sends the same one each time, but for a length.

What a parser said of one holds for the next one, byte for byte, which need not be parsed.
"""

import re
from typing import Final

MAX_TEMPLATE: Final = 4 * 1024  # bytes of a head that is kept; those of the SDKs have less than one

_END: Final = b"\r\n\r\n"
_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)[ \t]*\r\n", re.IGNORECASE)
_CHUNKED: Final = re.compile(rb"\r\ntransfer-encoding:", re.IGNORECASE)
_DIGITS: Final = 10  # of a length, at most


class Template:
    """A head whose `Content-Length` may be another one."""

    def __init__(self, before: bytes, after: bytes) -> None:
        self._before = before  # its number
        self._after = after

    def body(self, data: bytes) -> int:
        """Where the body begins of data that is this head with a whole body and nothing else, else 0."""
        if not data.startswith(self._before):
            return 0
        at = first = len(self._before)
        size = 0
        for at in range(first, min(first + _DIGITS, len(data))):
            byte = data[at]
            if not 0x30 <= byte <= 0x39:  # 0 to 9
                break
            size = size * 10 + byte - 0x30
        start = at + len(self._after)
        whole = at > first and start + size == len(data) and data.startswith(self._after, at)
        return start if whole else 0


def template(message: bytes) -> Template | None:
    """That of one message which a parser accepted, if it ends with the content that its length tells."""
    end = message.find(_END) + len(_END)
    if not len(_END) <= end <= MAX_TEMPLATE or _CHUNKED.search(message, 0, end):
        return None
    found = _LENGTH.search(message, 0, end)
    if found is None or int(found[1]) != len(message) - end:
        return None
    return Template(message[: found.start(1)], message[found.end(1) : end])
