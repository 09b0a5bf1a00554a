"""What a play is: several callers who each do something, at the same time, while another one works."""

from dataclasses import dataclass
from typing import Any, Literal

from tests.hostile.attack import ANSWERED, Attack
from tests.hostile.manners import SILENCE, Manner, whole
from tests.hostile.requests import Make

# What the victim streams from, a stream after the other: the base; an adapter of theirs that is warm; two of
# them in turns; one after the other that is cold; or more of theirs than there are places, which are stored.
Victim = Literal["base", "adapter", "two adapters", "cold", "stored"]
# What happens to the product in the midst of a play.
Event = Literal["the Hub is away", "the backend is stopped for three seconds", "the engine is killed"]
Switch = tuple[str, dict[str, Any]]

ANY = ANSWERED | {403, 404, SILENCE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one caller does. The name of another device of theirs stands behind a slash: `a/phone`."""

    make: Make
    who: str = "a"
    manner: Manner = whole
    count: int = 1
    at_once: int = 1
    begins: float = 0.0  # seconds after the play began
    seconds: float = 6.0  # after which they leave
    receives: int = 0  # see `Attack`

    def attack(self, name: str) -> Attack:
        """The same, as the hostile tests play it."""
        return Attack(
            id=name, source="", make=self.make, manner=self.manner, count=self.count, at_once=self.at_once,
            seconds=self.seconds, receives=self.receives, statuses=ANY,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Play:
    """Some callers, each at an address of their own, and what there is at the Hub for it."""

    id: str
    what: str
    parts: tuple[Part, ...]
    victim: Victim = "base"
    event: Event | None = None
    most_answered: int | None = None  # requests that may be answered with 200, of all parts together
    switches: tuple[Switch, ...] = ()
    orgs: tuple[str, ...] = ()  # in which all callers are members

    @property
    def seconds(self) -> float:
        """How long it takes."""
        return max(part.begins + part.seconds for part in self.parts)
