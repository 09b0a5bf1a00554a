"""One lock-out, and whom it can name. Not compiled: msgspec reads no compiled class from JSON."""

import re
from typing import Annotated, Final

import msgspec

from hubgate.proxy.frozen_struct import FrozenStruct

MAX_BLOCKS: Final = 10_000
LAST_TIME: Final = 253_402_300_799  # seconds: the end of the year 9999, the last that a trail can name

# Names as the Hub gives them to users and organizations, which share one namespace; fingerprints and, after
# `key:`, the names of local keys are of this shape too.
_WHO: Final = re.compile(r"(?:key:)?[A-Za-z0-9_-][A-Za-z0-9._-]{0,95}", re.ASCII)
# What a secret looks like: a token of the Hub (see `hubgate.proxy.auth.bearer`), the head of a JWT.
_SECRET: Final = re.compile(r"(?:key:)?(?:hf_|api_org_|eyJ[A-Za-z0-9_-]{12})", re.ASCII)

# What is read from a file or from Redis lies within; msgspec checks it there, and not where one is made.
_Time = Annotated[float, msgspec.Meta(ge=0, le=LAST_TIME)]


class Block(FrozenStruct):
    """One lock-out. Times are in seconds since the epoch."""

    who: str  # as `parse_who` gives it
    since: _Time
    until: _Time | None  # None: until it is lifted
    by: str  # who asked for it: `admin@<address>`
    reason: str  # for the operator; callers are not told

    def over(self, now: float) -> bool:
        """Whether its time has passed."""
        return self.until is not None and self.until <= now


def parse_who(text: str) -> str:
    """The name of a user, organization or local key (`key:NAME`), or a fingerprint, as the list keeps it.

    In lower case: the Hub's names differ in more than that, and nobody gets in by how theirs was typed.
    Raises `ValueError`, which repeats nothing of the text: it may be a token that was given by mistake.
    """
    if _SECRET.match(text):
        raise ValueError(
            "this looks like a token, which belongs into no command: treat it as leaked, and lock it out by "
            "its fingerprint, which `hubgate fingerprint --config proxy.yaml < token.txt` and the audit give"
        )
    if not _WHO.fullmatch(text):
        raise ValueError(
            "must be the name or the id of a Hub user or organization, key:NAME for one of `keys`, or the "
            "16 hex digits of a fingerprint"
        )
    return text.lower()
