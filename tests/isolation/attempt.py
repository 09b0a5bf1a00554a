"""One attempt of a campaign: what was asked, and everything that was seen of it, at every place."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tests.isolation.scenario import Revision

Kind = Literal["served", "refused", "unavailable", "wrongly served", "wrongly refused"]


@dataclass(frozen=True, slots=True)
class Bounds:
    """For how many seconds the proxy may go on believing what it was told."""

    identity: float
    access: float
    denial: float
    revision: float


@dataclass(frozen=True, slots=True)
class Upstreamed:
    """One request as an engine saw it; only one that held a grant and the model was `answered`."""

    model: str
    grant_model: str
    sub: str
    salt: str
    answered: bool


@dataclass(frozen=True, slots=True)
class Loaded:
    """One load as the backend saw it, opened with its private key."""

    token: str
    sub: str
    base: str
    adapter: str | None
    done_at: float | None


@dataclass(slots=True)
class Attempt:
    """One request, and everything that came of it."""

    id: str
    token: str
    repo: str  # org/name as it was asked for; "" for the list of models
    revision: Revision
    text: str  # the `model` that was sent
    began: float
    evictions: int = 0  # of what it asked for, before it began
    known: bool = False  # whether the proxy then needed no question to the Hub
    silenced: bool = False  # whether a 429 of the Hub's then kept the proxy from asking for this token
    reeling: bool = False  # whether its breaker may then have kept it from asking, after an outage
    status: int = 0
    code: str = ""
    answered: str = ""  # the model that the answer names
    listed: tuple[str, ...] = ()
    upstream: Sequence[Upstreamed] = ()
    loads: Sequence[Loaded] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the answer was; `either` if the opposite would have been right too."""

    kind: Kind
    either: bool = False
    why: str = ""
