"""What a proxy tells an engine's gate of a request whose body the gate does not read: `X-Hubgate-Cost`.

It is no part of the grant, which one caller's requests share for half a minute. The gate reads it only beside
a grant that it believes; a proxy passes no header of this name on. A request without it is one sequence.
"""

import re
from typing import Final

import msgspec

COST_HEADER: Final = "X-Hubgate-Cost"
MOST: Final = 99_999  # sequences; more than any body may ask for

_FORM: Final = re.compile(rb"([1-9][0-9]{0,4}),([1-9][0-9]{0,2})")


class Cost(msgspec.Struct, frozen=True):
    """How many sequences run for a request, and how much one of their tokens weighs."""

    sequences: int = 1
    per_token: int = 1  # more than 1 where log-probabilities are made for each


ONE: Final = Cost()


def write(cost: Cost) -> str:
    """The header's value; "" for what goes without saying."""
    return "" if cost == ONE else f"{min(MOST, cost.sequences)},{min(999, cost.per_token)}"


def read(value: bytes) -> Cost:
    """What it says; what cannot be read is the most that could have been said."""
    found = _FORM.fullmatch(value)
    return Cost(int(found[1]), int(found[2])) if found else Cost(MOST, 999)
