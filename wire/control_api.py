"""The messages of the control API between a proxy and a backend (JSON; version 1).

`GET /v1/hello` answers a signed `Hello`. `POST /v1/ensure` takes an `EnsureRequest` and answers
with a stream of `Event`, one JSON object a line: any number of `Progress`, then exactly one of
`Ready` or `LoadFailed`.
"""

from typing import Annotated, Literal

import msgspec

PROTOCOL = 1
GRANT_HEADER = "X-Hubgate-Grant"
REQUEST_ID_HEADER = "X-Request-Id"
SHARE_USED = "share_used"  # code of an engine's 429: the caller's share is used, and others wait
MOST_PLACES = 256  # requests whose places are asked for at once
WAITED_HEADER = "X-Hubgate-Waited"  # of an engine's answer: seconds that its gate let the request wait

# Each side is held to these by the other, which logs names and looks models up by them.
Name = Annotated[str, msgspec.Meta(max_length=256)]  # org/name@sha has at most 234 characters
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Names = Annotated[
    tuple[Name, ...], msgspec.Meta(max_length=65536)
]  # as many as `adapters.max_cpu_loras` may be

EngineState = Literal[
    "absent", "downloading", "starting", "ready", "draining", "asleep", "stopping", "failed"
]  # fmt: skip

Stage = Literal["queued", "downloading", "starting", "loading"]

# Why a load failed. The proxy turns each into an error of its own table.
FailureCode = Literal[
    "denied",  # the Hub refused the caller's token during the download
    "not_found",  # the Hub no longer knows the repo or the sha
    "rejected",  # admission: pickle only, rank, size, wrong base, remote code
    "hub_unavailable",
    "store_full",
    "no_capacity",  # no engine can be had for this base now
    "engine_failed",
    "error",
]


class EngineQueue(msgspec.Struct, frozen=True, kw_only=True):
    """Who has a share of an engine, and who waits for one. Times in seconds."""

    seats: Count = 0  # sequences that it runs at once
    taken: Count = 0  # by requests that were let in
    waiting: Count = 0  # requests
    longest_wait: Annotated[float, msgspec.Meta(ge=0)] = 0.0


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One vLLM process: one base model at one sha. Its host is the one the proxy already knows."""

    id: Name
    boot: Name
    port: Port
    base: Name  # org/name@sha
    state: EngineState
    adapters: Names = ()  # served names, org/name@sha
    claims: Annotated[tuple[Name, ...], msgspec.Meta(max_length=64)] = ()  # of a grant, that it reads
    queue: EngineQueue | None = None  # as of a moment ago; `None` while it is not known
    places: Count = 0  # adapters that it holds at once; 0 from an older backend
    tells_places: bool = False  # whether its gate answers a `PlacesRequest`


class PlacesRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Proxy to engine, `POST /hubgate/places`, under any grant of its own: which places requests have.

    Each is named by its caller's pseudonym and its `X-Request-Id`.
    """

    requests: Annotated[tuple[tuple[Name, Name], ...], msgspec.Meta(max_length=MOST_PLACES)]


class Places(msgspec.Struct, frozen=True, kw_only=True):
    """Its answer: for each, how many are let in until it is, this one included; 0 if it does not wait."""

    places: Annotated[tuple[Count, ...], msgspec.Meta(max_length=MOST_PLACES)]


class Hello(msgspec.Struct, frozen=True, kw_only=True):
    """What a backend is and runs. Signed by its key; `nonce` is the jti of the grant that asked."""

    protocol: Annotated[int, msgspec.Meta(ge=0, le=9999)]
    name: Name
    boot: Name
    nonce: Name
    engines: Annotated[tuple[EngineInfo, ...], msgspec.Meta(max_length=1024)]
    draining: bool = False  # it is about to end: what is in flight goes on, and nothing new should come


class EnsureRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Make a model warm. What to load, and with which token, stands in the scoped token alone."""

    token: str  # JWE


class Download(msgspec.Struct, frozen=True, kw_only=True):
    """One repo that was fetched for this load, for the audit of whoever asked."""

    repo: str  # org/name@sha
    kind: Literal["base", "adapter"]
    bytes: int
    seconds: float
    evicted: tuple[str, ...] = ()  # what left the backend's store to make room, org/name@sha


class Evicted(msgspec.Struct, frozen=True, kw_only=True):
    """What made room for this load: an engine with its base model, or one adapter."""

    repo: str  # org/name@sha
    kind: Literal["base", "adapter"]


class Progress(msgspec.Struct, frozen=True, kw_only=True, tag="progress"):
    """Still under way, at most twice a second. `total` is 0 while unknown; bytes and bytes per second.

    `place` is that in the line of those who wait, 1 for the next; absent from one that does not wait, and
    from an older backend.
    """

    stage: Stage
    repo: str
    done: int = 0
    total: int = 0
    rate: float = 0.0
    place: int | msgspec.UnsetType = msgspec.UNSET


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag="ready"):
    """The model answers on this engine."""

    engine: EngineInfo
    downloads: tuple[Download, ...] = ()
    loaded: bool = False  # whether this call put the adapter into the engine
    started: bool = False  # whether this call started the engine, or woke it up
    evicted: tuple[Evicted, ...] = ()


class LoadFailed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """The load ended without success. `message` is fit for a caller's eyes; `stage` is where it ended."""

    code: FailureCode
    message: str
    repo: str = ""
    retry_after: int | None = None  # seconds
    downloads: tuple[Download, ...] = ()
    evicted: tuple[Evicted, ...] = ()
    stage: Stage = "queued"


Event = Progress | Ready | LoadFailed


class RefreshRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /v1/refresh`: serve base models at what their revision points to now."""

    repo: str | None = None  # org/name; all preloaded ones if absent


class Refreshed(msgspec.Struct, frozen=True, kw_only=True, tag="refreshed"):
    """One base model was looked at. `engine_ended`: its engine was drained, and nothing replaced it."""

    repo: str  # org/name@sha, as it is served from now on
    before: str  # the same, until now; equal if its revision has not moved
    engine_ended: bool = False


RefreshEvent = Progress | Refreshed | LoadFailed


class LoadAdapter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Supervisor to its engine, `POST /hubgate/adapters`: an absolute local path, never a repo id."""

    name: str  # org/name@sha
    path: str


class UnloadAdapter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Supervisor to its engine, `POST /hubgate/adapters/unload`: name and weights both go."""

    name: str
