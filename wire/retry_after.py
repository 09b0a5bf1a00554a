"""How long an answer asks its reader to wait."""

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC
from email.utils import parsedate_to_datetime

_SECONDS = re.compile(r"[0-9]+", re.ASCII)
# Hub documentation, "Rate limits": RateLimit: "api";r=0;t=55
_RESET = re.compile(r"(?:^|[;\s])t=([0-9]+)\b", re.ASCII)
_DIGITS = 10  # that are read of a number: more are three hundred years


def seconds(headers: Mapping[str, str], now: float) -> int | None:
    """The seconds that these headers ask to wait at `now` (since the epoch); `None` if they do not say.

    `Retry-After` (RFC 9110, section 10.2.3: seconds, or an HTTP-date), or else `t=` of the Hub's `RateLimit`.
    A date that is past says nothing: one of the two clocks is wrong. How much of it is obeyed is for the
    reader to say.
    """
    given = headers.get("Retry-After", "").strip()
    found: int | None = None
    if _SECONDS.fullmatch(given):
        found = _number(given)
    elif given:
        with suppress(ValueError, OverflowError):
            date = parsedate_to_datetime(given)
            ahead = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now
            found = math.ceil(ahead) if ahead > 0 else None
    if found is None and (reset := _RESET.search(headers.get("RateLimit", ""))):
        found = _number(reset[1])
    return found


def _number(digits: str) -> int:
    return int(digits.lstrip("0")[:_DIGITS] or "0")
