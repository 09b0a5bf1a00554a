"""Who is locked out right now: a list that an operator changes while the proxy runs.

Every request looks at it. It is empty nearly always, and then that is all that is looked at.
"""

import re
from collections.abc import Mapping
from typing import Final

from hubgate.proxy.auth.block import Block
from hubgate.proxy.auth.identity import Identity
from hubgate.proxy.errors import Denied

LOCKED_OUT: Final = Denied("caller_not_allowed", "The operator of this service has locked you out.")

_AFTER_KIND: Final = re.compile(r"^[a-z]+[:=]")


class Blocklist:
    """Those who are locked out, by the names that an identity can be known by."""

    def __init__(self) -> None:
        self._blocks: dict[str, Block] = {}

    @property
    def blocks(self) -> Mapping[str, Block]:
        """All of them, by `who`, also those whose time has just passed."""
        return self._blocks

    def replace(self, blocks: dict[str, Block]) -> None:
        """Lock out these, and nobody else, from the next request on."""
        self._blocks = blocks

    def refusal(self, identity: Identity, now: float) -> Denied | None:
        """What a caller who is locked out is told; `None` for everybody else."""
        if not self._blocks:
            return None
        # Names and ids of the user and of organizations, without the word that says which of them it is.
        names = [_AFTER_KIND.sub("", known) for known in identity.known_as]
        for name in (identity.fingerprint, *names):
            block = self._blocks.get(name.lower())
            if block is not None and not block.over(now):
                return LOCKED_OUT
        return None
