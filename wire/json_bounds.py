"""What JSON from outside may ask of a parser: seen without parsing, so that nothing recurses over it.

Parsers call themselves for each level, and what they give is walked by code that does the same. At some depth
Python raises RecursionError, where depends on its version and on who called; and compiled code that is
called back there may end the process.
"""

import re
from itertools import accumulate
from typing import Final

MAX_DEPTH: Final = 100  # levels of arrays and objects; the Hub's answers and configurations have ten
MAX_CONTAINERS: Final = 100_000  # arrays and objects; the largest lists of files have fewer
MAX_QUOTES: Final = 500_000  # two of each string
MAX_EXPONENTS: Final = 1_000  # numbers such as 1e308, which take msgspec 10 µs each, and others 0.02

MAX_ADAPTER_CONFIG: Final = 1 << 20  # bytes of an adapter_config.json, for both programs

_STEPS: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_EXPONENT: Final = re.compile(rb"[\[:,\s]-?[0-9][0-9.]*[eE]")
_OTHER: Final = bytes(byte for byte in range(256) if byte not in _STEPS)


def is_excessive(text: bytes) -> bool:
    """Whether this JSON (RFC 8259, so UTF-8) nests deeper, or holds more, than the limits above.

    Takes time in proportion to the text: 10 to 25 ms for a megabyte of brackets or quotes. What is not JSON
    is for the parser to say: up to the byte at which one has to give up, both see the same levels.
    """
    if len(_EXPONENT.findall(text)) > MAX_EXPONENTS:
        return True
    opened = text.count(b"[") + text.count(b"{")
    if opened <= MAX_DEPTH:
        return False
    if opened > MAX_CONTAINERS or text.count(b'"') > MAX_QUOTES:
        return True
    # Every second part between quotes is a string; escapes go first, since a quote may be one.
    plain = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    brackets = b"".join(plain.split(b'"')[::2]).translate(None, _OTHER)
    return any(map(MAX_DEPTH.__lt__, accumulate(map(_STEPS.__getitem__, brackets))))
