"""What the admin port and `hubgate block` say to each other, in JSON."""

import re
from typing import Annotated, Final

import msgspec

from hubgate.proxy.auth.block import Block

PATH: Final = "/blocks"
MAX_BODY: Final = 4096  # bytes of a request
MAX_SECONDS: Final = 10 * 366 * 86400
MAX_REASON: Final = 200  # characters

# Somewhere in a text: a token of the Hub.
_TOKEN: Final = re.compile(r"(?:hf|api_org)_[A-Za-z0-9_]{3,}", re.ASCII)


class AddBlock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Lock somebody out, for `seconds` or until it is lifted; what was said of them before is replaced."""

    who: str
    seconds: Annotated[float, msgspec.Meta(gt=0, le=MAX_SECONDS)] | None = None
    reason: str = ""


class Change(msgspec.Struct, frozen=True):
    """What became of a command. `fault` says what is not as it was asked for, if anything."""

    block: Block  # that is in force, or was
    shared: bool  # whether it counts on every proxy with the same Redis, or on this one alone
    ended: int = 0  # requests under way that were cut
    advice: str = ""
    fault: str = ""


class Blocks(msgspec.Struct, frozen=True):
    """Who is locked out."""

    blocks: tuple[Block, ...]
    shared: bool
    fault: str = ""  # why the list may not be the one that the other proxies have


class AdminError(msgspec.Struct, frozen=True):
    """Why nothing was done."""

    error: str


def check_reason(text: str) -> str:
    """The text, if it may stand in a trail. Raises `ValueError`, which repeats nothing of it."""
    if len(text) > MAX_REASON or not text.isprintable():
        raise ValueError(f"the reason must be at most {MAX_REASON} printable characters")
    if _TOKEN.search(text):
        raise ValueError("the reason holds what looks like a token: say it without")
    return text
