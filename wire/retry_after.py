"""How long an answer asks its reader to wait."""

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC
from email.utils import parsedate_to_datetime

_SECONDS = re.compile(r"0*([0-9]+)", re.ASCII)
# Hub documentation, "Rate limits": RateLimit: "api";r=0;t=55
_RESET = re.compile(r"(?:^|[;\s])t=0*([0-9]+)\b", re.ASCII)
_DIGITS = 10  # that are read of a number: more are three hundred years


def seconds(headers: Mapping[str, str], now: float) -> int | None:
    """The seconds that these headers ask to wait at `now` (since the epoch); `None` if they do not say.

    `Retry-After` (RFC 9110, section 10.2.3: seconds, or an HTTP-date), or else `t=` of the Hub's `RateLimit`.
    0 for a date that is past. How much of it is obeyed is for the reader to say.
    """
    given = headers.get("Retry-After", "").strip()
    found: int | None = None
    if match := _SECONDS.fullmatch(given):
        found = int(match[1][:_DIGITS])
    elif given:
        with suppress(ValueError, OverflowError):
            date = parsedate_to_datetime(given)
            found = math.ceil((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now)
    if found is None and (reset := _RESET.search(headers.get("RateLimit", ""))):
        found = int(reset[1][:_DIGITS])
    return None if found is None else max(0, found)
