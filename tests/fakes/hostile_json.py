"""JSON that somebody sends in the hope that a parser stumbles, for whatever reads JSON from outside."""

from typing import Final


def _nested(levels: int, before: bytes = b"[", after: bytes = b"]") -> bytes:
    return before * levels + after * levels


# Each a whole document. Depths lie before, at and far beyond Python's limit on recursion.
DOCUMENTS: Final[dict[str, bytes]] = {
    "nothing": b"",
    "a null": b"null",
    "a number": b"5",
    "a text": b'"hello"',
    "a list": b"[]",
    "no JSON": b"<html>502 Bad Gateway</html>",
    "half of it": b'{"a":',
    "no UTF-8": b"\xff\xfe\x00",
    "no UTF-8 in a text": b'{"name":"\xff","id":"\xff"}',
    "NaN": b"NaN",
    "a lone surrogate": b'{"name":"\\ud800"}',
    "5,000 digits": b'{"protocol":%b}' % (b"9" * 5000),
    "4,000 digits": b'{"protocol":%b}' % (b"9" * 4000),
    **{f"{levels} lists": _nested(levels) for levels in (900, 1000, 1100, 100_000)},
    **{f"{levels} objects": _nested(levels, b'{"a":', b"}") for levels in (900, 1000, 1100, 100_000)},
    "many empty lists": b"[%b[]]" % (b"[]," * 100_000),
}


def beside(members: bytes) -> dict[str, bytes]:
    """Objects that have these members, and one more that nobody asks for."""
    unasked = {
        **{f"{levels} levels unasked": _nested(levels) for levels in (900, 1000, 1100, 100_000)},
        "5,000 digits unasked": b"9" * 5000,
        "a megabyte unasked": b'"%b"' % (b"x" * (1 << 20)),
        "no UTF-8 unasked": b'"\xff"',
    }
    return {name: b'{%b,"unasked":%b}' % (members, value) for name, value in unasked.items()}
