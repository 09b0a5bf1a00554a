"""What an attack is."""

from dataclasses import dataclass
from typing import Any

from tests.hostile.manners import Manner, whole
from tests.hostile.requests import Make

REFUSED = frozenset({400, 413, 422, 429, 503})
ANSWERED = REFUSED | {200}


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """Requests of one caller, or of nobody, and what they may be answered with."""

    id: str  # a row of docs/isolation.md, a colon, and which of its variants
    source: str  # an advisory, an issue of a project, or where else it was seen
    make: Make
    manner: Manner = whole
    count: int = 1
    at_once: int = 1
    seconds: float = 8.0  # after which it leaves
    receives: int = 0  # bytes of the receive buffer of its connections; 0: the system's
    statuses: frozenset[int] = ANSWERED
    switches: tuple[tuple[str, dict[str, Any]], ...] = ()  # of the demo Hub, switched before
    quick: bool = False  # whether it is played by `make test` too

    @property
    def row(self) -> str:
        """The row of docs/isolation.md that it belongs to."""
        return self.id.partition(":")[0]
