"""What is known of one request while it is under way; audit and metrics are written from it."""

import random
import re
import time
from typing import Literal

from proxy import errors
from proxy.auth.authorization import Access
from proxy.auth.identity import Identity
from proxy.errors import Denied, Dialect
from proxy.http.inbound import Headers
from proxy.limits import Permit
from proxy.record import Record

# What a request is at; in `body`, `load` and `upstream` it waits for somebody else.
Phase = Literal["own", "auth", "limits", "body", "load", "upstream"]
_PHASES: tuple[Phase, ...] = ("own", "auth", "limits", "body", "load", "upstream")

_SANE_ID = re.compile(r"[A-Za-z0-9._-]{8,128}", re.ASCII)


class Exchange:
    """One request and what became of it. Times in seconds."""

    def __init__(self, request_id: str, client: str) -> None:
        self.request_id = request_id
        self.client = client
        self.endpoint = "other"
        self.dialect: Dialect = "openai"
        self.started = time.perf_counter()
        self.phase: Phase = "own"
        self.spent: dict[Phase, float] = dict.fromkeys(_PHASES, 0.0)
        self._since = self.started  # when the phase began
        self.hub_wait = 0.0
        self.first_byte: float | None = None
        self.identity: Identity | None = None
        self.model: str | None = None  # as asked for, once it is known to be a repo's name
        self.access: Access | None = None
        self.audited = False  # whether anything was decided that the audit must tell
        self.permit: Permit | None = None
        self.notice: str | None = None  # what the caller should know of their token
        self.buffered = 0  # bytes of the body that are held in memory
        self.cold = False
        self.stream = False
        self.upstream: str | None = None
        self.status = 500
        self.code: str = "internal_error"
        self.bytes_in = 0
        self.bytes_out = 0
        self.prompt_tokens: int | None = None
        self.completion_tokens: int | None = None
        self.estimated = False  # whether those are a guess, since the answer was cut short

    def enter(self, phase: Phase) -> float:
        """Go on to another phase; gives the time that this stay in the last one took."""
        now = time.perf_counter()
        took = now - self._since
        self.spent[self.phase] += took
        self.phase, self._since = phase, now
        return took

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
        """Time in the proxy itself, as of the last phase that ended."""
        spent = self.spent
        return max(0.0, spent["own"] + spent["auth"] + spent["limits"] - self.hub_wait)

    def server_timing(self) -> str:
        """The `Server-Timing` header of an answer (W3C), in milliseconds; refusals carry none."""
        self.enter(self.phase)
        spent = self.spent
        told = spent["auth"] * 1e3, spent["limits"] * 1e3, spent["load"] * 1e3, spent["upstream"] * 1e3
        return "auth;dur=%.1f, limits;dur=%.1f, load;dur=%.1f, upstream;dur=%.1f" % told  # noqa: UP031 - a third

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

    def record(self, now: float) -> Record:
        """The audit record at `now`, seconds since the epoch."""
        record = Record(
            request_id=self.request_id,
            client=self.client,
            endpoint=self.endpoint,
            model=self.model,
            reason=self.code,
            status=self.status,
            upstream=self.upstream,
            stream=self.stream,
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            tokens_estimated=self.estimated or None,
            seconds=self._seconds(),
        )
        if (identity := self.identity) is not None:
            age = identity.age_days(now)
            record.user = identity.user
            record.token_name = identity.token_name
            record.role = identity.role or identity.kind
            record.token_age_days = None if age is None else round(age, 1)
            record.fingerprint = identity.fingerprint
            record.sub = identity.sub
        if (access := self.access) is not None:
            used = access.adapter or access.base
            record.repo, record.sha, record.base = used.id, used.revision, str(access.base)
            record.temperature = "cold" if self.cold else "warm"
        if self.turned_away:
            record.decision = "denied"
        elif self.code == "ok" or access is not None:
            record.decision = "granted"
        return record

    def _seconds(self) -> dict[str, float]:
        told = {"total": _short(self.elapsed)}
        for phase, spent in self.spent.items():
            if spent and phase != "own":
                told[phase] = _short(spent)
        return told


def _short(seconds: float) -> float:
    """To a tenth of a millisecond; `round` takes ten times as long."""
    return int(seconds * 1e4 + 0.5) / 1e4


def request_id(inbound: str | None) -> str:
    """The caller's own id where it is sane, else a new one."""
    if inbound is not None and _SANE_ID.fullmatch(inbound):
        return inbound
    return f"req-{random.getrandbits(96):024x}"
