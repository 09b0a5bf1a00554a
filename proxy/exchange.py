"""What is known of one request while it is under way; audit and metrics are written from it."""

import re
import secrets
import time
from dataclasses import dataclass, field
from typing import Any, Literal

from proxy import errors
from proxy.auth.authorization import Access
from proxy.auth.identity import Identity
from proxy.errors import Denied, Dialect
from proxy.http.inbound import Headers
from proxy.limits import Permit

Phase = Literal["auth", "limits", "body", "load", "upstream"]

# The phases in which a request waits for somebody else: the rest is the proxy's own time.
_WAITING: tuple[Phase, ...] = ("body", "load", "upstream")
_SANE_ID = re.compile(r"[A-Za-z0-9._-]{8,128}", re.ASCII)


@dataclass(slots=True)
class Exchange:
    """One request and what became of it. Times in seconds."""

    request_id: str
    client: str
    endpoint: str = "other"
    dialect: Dialect = "openai"
    started: float = field(default_factory=time.perf_counter)
    spent: dict[Phase, float] = field(default_factory=dict)
    under_way: tuple[Phase, float] | None = None  # the phase that goes on now, and when it began
    hub_wait: float = 0.0
    first_byte: float | None = None
    identity: Identity | None = None
    model: str | None = None  # as asked for, once it is known to be a repo's name
    access: Access | None = None
    audited: bool = False  # whether anything was decided that the audit must tell
    permit: Permit | None = None
    notice: str | None = None  # what the caller should know of their token
    buffered: int = 0  # bytes of the body that are held in memory
    cold: bool = False
    stream: bool = False
    upstream: str | None = None
    status: int = 500
    code: str = "internal_error"
    bytes_in: int = 0
    bytes_out: int = 0
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    estimated: bool = False  # whether those are a guess, since the answer was cut short

    def timing(self, phase: Phase) -> "_Timing":
        """Add the time inside to a phase."""
        return _Timing(self, phase)

    def refused(self, denied: Denied) -> None:
        self.status, self.code = denied.status, denied.code

    def answered(self, status: int) -> None:
        self.status, self.code = status, "ok"

    def failed(self, code: str) -> None:
        """The answer broke off after its headers were sent; the status stays what the caller saw."""
        self.code = code

    def left(self) -> None:
        """The caller hung up; 499 is for logs only (nginx's convention)."""
        self.status, self.code = 499, "client_left"

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self.started

    @property
    def overhead(self) -> float:
        """Time in the proxy itself."""
        return max(0.0, self.elapsed - self.hub_wait - sum(self.spent.get(phase, 0.0) for phase in _WAITING))

    def server_timing(self) -> str:
        """The `Server-Timing` header of an answer (W3C), in milliseconds; refusals carry none."""
        told: tuple[Phase, ...] = ("auth", "limits", "load", "upstream")
        return ", ".join([f"{phase};dur={self._until_now(phase):.1f}" for phase in told])

    def _until_now(self, phase: Phase) -> float:
        """Milliseconds that a phase took, also if it still goes on."""
        spent = self.spent.get(phase, 0.0)
        if self.under_way is not None and self.under_way[0] == phase:
            spent += time.perf_counter() - self.under_way[1]
        return spent * 1000

    @property
    def turned_away(self) -> bool:
        """Whether the caller or the model was refused, rather than the request or its outcome."""
        return self.access is None and self.status in (401, 403, 404)

    def headers(self) -> Headers:
        """The headers of ours that every good answer carries."""
        limits = self.permit.headers if self.permit else ()
        notice = (("X-Hubgate-Notice", self.notice),) if self.notice else ()
        return (
            *errors.identified(self.request_id, self.dialect),
            ("Server-Timing", self.server_timing()),
            ("Server", "hubgate"),
            *limits,
            *notice,
        )

    def record(self, now: float) -> dict[str, Any]:
        """The fields of the audit record at `now`, seconds since the epoch; absent ones are `None`."""
        identity, access = self.identity, self.access
        return {
            "request_id": self.request_id,
            "client": self.client,
            "endpoint": self.endpoint,
            **(_describe(identity, now) if identity else {}),
            "model": self.model,
            "repo": (access.adapter or access.base).id if access else None,
            "sha": (access.adapter or access.base).revision if access else None,
            "base": str(access.base) if access else None,
            "decision": "denied" if self.turned_away else "granted" if self.code == "ok" or access else None,
            "reason": self.code,
            "status": self.status,
            "upstream": self.upstream,
            "stream": self.stream,
            "temperature": ("cold" if self.cold else "warm") if access else None,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "tokens_estimated": self.estimated or None,
            "seconds": {"total": round(self.elapsed, 4), **{k: round(v, 4) for k, v in self.spent.items()}},
        }


class _Timing:
    """A context manager as a class: one made by `contextlib` costs ten times as much."""

    __slots__ = ("_begun", "_exchange", "_phase")

    def __init__(self, exchange: Exchange, phase: Phase) -> None:
        self._exchange = exchange
        self._phase = phase
        self._begun = 0.0

    def __enter__(self) -> None:
        self._begun = time.perf_counter()
        self._exchange.under_way = self._phase, self._begun

    def __exit__(self, *_: object) -> None:
        exchange = self._exchange
        exchange.under_way = None
        spent = time.perf_counter() - self._begun
        exchange.spent[self._phase] = exchange.spent.get(self._phase, 0.0) + spent


def request_id(inbound: str | None) -> str:
    """The caller's own id where it is sane, else a new one."""
    if inbound is not None and _SANE_ID.fullmatch(inbound):
        return inbound
    return f"req-{secrets.token_hex(12)}"


def _describe(identity: Identity, now: float) -> dict[str, Any]:
    age = identity.age_days(now)
    return {
        "user": identity.user,
        "token_name": identity.token_name,
        "role": identity.role or identity.kind,
        "token_age_days": None if age is None else round(age, 1),
        "fingerprint": identity.fingerprint,
        "sub": identity.sub,
    }
