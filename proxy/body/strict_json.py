"""The strict parser, for JSON that is not spelled as we would spell it: it refuses what two could read apart.

Its hooks are called by a C parser that recurses, and stay out of what is compiled: there an exception that
Python raises at the bottom of its stack, in the comparison of two numbers, would end the process.
"""

import json
import math
import re
from typing import Any, Final, Never

JsonObject = dict[str, Any]


class DuplicateKeyError(ValueError):
    """A key stands twice: two parsers could read two different requests."""


def decode(text: str, *, long_numbers: bool) -> Any:
    """Read JSON in which no key stands twice, and no number is more than 64 bits or NaN or infinite.

    Numbers are many, and are looked at only where they can be too large. `long_numbers` says whether nineteen
    digits stand in a row somewhere. No number has more than a hundred characters.
    Raises `DuplicateKeyError`, `ValueError` and `OverflowError`; of more than a few hundred levels
    `RecursionError`.
    """
    return _DECODERS[long_numbers, _LARGE_EXPONENT.search(text) is not None].decode(text)


def _unique(pairs: list[tuple[str, Any]]) -> JsonObject:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise DuplicateKeyError
    return found


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):  # 1e999 would be sent on as null
        raise ValueError("a number is too large")
    return number


def _whole(text: str) -> int:
    number = int(text)
    if not -(2**63) <= number < 2**64:  # no field means more, and the engine counts in 64 bits
        raise ValueError("a number is too large")
    return number


def _no_constant(_: str) -> Never:
    raise ValueError("NaN and Infinity are not JSON")


# Of a hundred characters, what is beyond a float (1.8e308) has an exponent of three digits.
_LARGE_EXPONENT: Final = re.compile(r"[eE]\+?[0-9]{3}")
_DECODERS: Final = {
    (long_integers, large_floats): json.JSONDecoder(
        object_pairs_hook=_unique,
        parse_int=_whole if long_integers else None,
        parse_float=_finite if large_floats else None,
        parse_constant=_no_constant,
    )
    for long_integers in (False, True)
    for large_floats in (False, True)
}
