"""Heads that come again: whoever keeps a connection sends the same one each time, but for a length.

What a parser said of one holds for the next one, byte for byte, which need not be parsed.
"""

from typing import Final

MAX_HEAD: Final = 4 * 1024  # bytes of a head that is kept; those of the SDKs have less than one

_END: Final = b"\r\n\r\n"
_LENGTHS: Final = (b"\r\nContent-Length: ", b"\r\ncontent-length: ")
_DIGITS: Final = 10  # of a length, at most


class RepeatedHead:
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
        for at in range(first, min(first + _DIGITS, len(data))):  # to the byte behind the number
            byte = data[at]
            if not 0x30 <= byte <= 0x39:  # 0 to 9
                break
            size = size * 10 + byte - 0x30
        start = at + len(self._after)
        # Where there are more digits, what stands at the last one is not what comes after.
        whole = at > first and start + size == len(data) and data.startswith(self._after, at)
        return start if whole else 0


def learn_head(message: bytes) -> RepeatedHead | None:
    """That of one message which a parser accepted, if it ends with the content that its length tells.

    A header of this name is the only one by the parser's word, and there are no chunks beside it. Where it
    is written as nobody does, or the head comes with an end before its own, there is no template.
    """
    end = message.find(_END) + len(_END)
    if not len(_END) <= end <= MAX_HEAD:
        return None
    for name in _LENGTHS:
        start = message.find(name, 0, end) + len(name)
        if start >= len(name):
            told = message[start : message.find(b"\r", start)]
            if told.isdigit() and int(told) == len(message) - end:
                return RepeatedHead(message[:start], message[start + len(told) : end])
    return None
