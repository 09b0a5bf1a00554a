"""Chunks of a body (RFC 9112, section 7.1), as engines send one for each event of a stream."""

from typing import Final

_DIGITS: Final = 8  # of a size, at most


def content(data: bytes) -> int:
    """Where the content begins of data that is one chunk and nothing else; 0 if it is anything else.

    A chunk without content, which is the last, is something else, and so is one that is not written plainly:
    its size in other than lower-case digits, or with an extension.
    """
    size = 0
    for at in range(min(len(data), _DIGITS + 1)):
        byte = data[at]
        if 0x30 <= byte <= 0x39:  # 0 to 9
            size = size * 16 + byte - 0x30
        elif 0x61 <= byte <= 0x66:  # a to f
            size = size * 16 + byte - 0x61 + 10
        else:
            plain = byte == 0x0D and size and len(data) == at + 2 + size + 2
            return at + 2 if plain and data[at + 1] == 0x0A and data.endswith(b"\r\n") else 0
    return 0
