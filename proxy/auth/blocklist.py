"""Who is locked out right now: a list that an operator changes while the proxy runs.

Every request looks at it: as a rule it is empty or names somebody else, and one comparison of sets says so.
"""

from collections.abc import Mapping
from typing import Final

from hubgate.proxy.auth.block import Block
from hubgate.proxy.auth.identity import Identity
from hubgate.proxy.errors import Denied

LOCKED_OUT: Final = Denied("caller_not_allowed", "The operator of this service has locked you out.")

UNKNOWN: Final = Denied(
    "hub_unavailable", "This proxy cannot tell yet who may use it; try again.", retry_after=5
)


class Blocklist:
    """Those who are locked out, by the names that an identity can be known by."""

    def __init__(self) -> None:
        self._blocks: dict[str, Block] = {}
        self.known = True  # whether these are all: nobody gets in while others may be locked out too

    @property
    def blocks(self) -> Mapping[str, Block]:
        """All of them, by `who`, also those whose time has just passed."""
        return self._blocks

    def replace(self, blocks: dict[str, Block]) -> None:
        """Lock out these, and nobody else, from the next request on."""
        self._blocks = blocks

    def refusal(self, identity: Identity, now: float) -> Denied | None:
        """What a caller who is locked out is told, or may be; `None` for everybody else."""
        if not self.known:
            return UNKNOWN
        if not self._blocks or self._blocks.keys().isdisjoint(identity.called):
            return None
        for name in identity.called:
            block = self._blocks.get(name)
            if block is not None and not block.over(now):
                return LOCKED_OUT
        return None
