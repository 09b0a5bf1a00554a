"""What is known of one request while it is under way; audit and metrics are written from it."""

import asyncio
import random
import re
import time
from typing import Final, Literal

from hubgate.proxy import errors
from hubgate.proxy.auth.authorization import Access
from hubgate.proxy.auth.identity import Identity
from hubgate.proxy.errors import Denied, Dialect
from hubgate.proxy.limits.limiter import Permit

# What a request is at; in `body`, `load` and `upstream` it waits for somebody else.
Phase = Literal["own", "auth", "limits", "body", "load", "upstream"]

SERVER: Final = "Server: hubgate\r\n"

_clock: Final = time.perf_counter
_bits: Final = random.getrandbits
_SANE_ID: Final = re.compile(r"[A-Za-z0-9._-]{8,128}", re.ASCII)


class RequestContext:
    """One request and what became of it. Times in seconds."""

    def __init__(self, request_id: str, client: str) -> None:
        self.request_id = request_id
        self.client = client
        self.endpoint = "other"
        self.dialect: Dialect = "openai"
        self.started: float = _clock()
        self.phase: Phase = "own"
        self._since = self.started  # when the phase began
        # What was spent in phases that ended; the rest of the time is `own`.
        self.auth_seconds = 0.0
        self.limits_seconds = 0.0
        self.body_seconds = 0.0
        self.load_seconds = 0.0
        self.upstream_seconds = 0.0
        self.queue_seconds = 0.0  # of those, what the engine's gate let it wait
        self.hub_wait = 0.0
        self.first_byte: float | None = None
        self.identity: Identity | None = None
        self.model: str | None = None  # as asked for, once it is known to be a repo's name
        self.access: Access | None = None
        self.admitted = False  # whether it is a caller's who may call
        self.spent = False  # whether its client was refused too often, which ends the connection
        self.audited = False  # whether anything was decided that the audit must tell
        self.permit: Permit | None = None
        self.cors = ""  # the lines that let a browser's script read the answer
        self.notice: str | None = None  # what the caller should know of their token
        self.locked_out: Denied | None = None  # what to tell a caller who was locked out meanwhile
        self.buffered = 0  # bytes of a large body that is held in memory
        self.complete = False  # whether a stream's last event went out, whatever came after it
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

    def leave(self, source: str = "") -> None:
        """End a phase in which something was waited for. What came from the Hub was waited for there."""
        took = self.enter("own")
        if source == "hub":
            self.hub_wait += took

    def enter(self, phase: Phase) -> float:
        """Go on to another phase; gives the time that this stay in the last one took."""
        now: float = _clock()
        took = now - self._since
        match self.phase:
            case "own":
                pass
            case "auth":
                self.auth_seconds += took
            case "limits":
                self.limits_seconds += took
            case "body":
                self.body_seconds += took
            case "load":
                self.load_seconds += took
            case "upstream":
                self.upstream_seconds += took
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
        """The caller hung up before the end; 499 is for logs only (nginx's convention)."""
        if self.complete:
            return
        self.status, self.code = 499, "client_left"

    def interrupted(self) -> Denied | None:
        """What a cancellation has the caller told; `None` where they hung up, so that it must go on."""
        task = asyncio.current_task()
        if self.locked_out is not None and task is not None:
            task.uncancel()
        return self.locked_out

    @property
    def elapsed(self) -> float:
        now: float = _clock()
        return now - self.started

    @property
    def overhead(self) -> float:
        """Time in the proxy itself, as of the last phase that ended."""
        waited = self.hub_wait + self.body_seconds + self.load_seconds + self.upstream_seconds
        return max(0.0, self._since - self.started - waited)

    def server_timing(self) -> str:
        """The `Server-Timing` header of an answer (W3C), in milliseconds; refusals carry none."""
        self.enter(self.phase)
        auth, limits = _milliseconds(self.auth_seconds), _milliseconds(self.limits_seconds)
        load, upstream = _milliseconds(self.load_seconds), _milliseconds(self.upstream_seconds)
        queue = f", queue;dur={_milliseconds(self.queue_seconds)}" if self.queue_seconds else ""
        return f"auth;dur={auth}, limits;dur={limits}, load;dur={load}, upstream;dur={upstream}{queue}"

    @property
    def turned_away(self) -> bool:
        """Whether the caller or the model was refused, rather than the request or its outcome."""
        return self.access is None and self.status in (401, 403, 404)

    def lines(self) -> str:
        """The headers of ours that every good answer carries, as lines."""
        identified = errors.identified(self.request_id, self.dialect)
        limits = self.permit.lines if self.permit is not None else ""
        notice = f"X-Hubgate-Notice: {self.notice}\r\n" if self.notice else ""
        return f"{identified}Server-Timing: {self.server_timing()}\r\n{SERVER}{limits}{notice}{self.cors}"


# The texts of what takes less than a tenth of a second, as nearly all that is told does.
_MILLISECONDS: Final = tuple(f"{tenths / 10:.1f}" for tenths in range(1000))


def _milliseconds(seconds: float) -> str:
    tenths = int(seconds * 1e4 + 0.5)
    return _MILLISECONDS[tenths] if tenths < 1000 else f"{tenths / 10:.1f}"


def sane_id(inbound: str | None) -> str | None:
    """The caller's own id, if it is one that can be told everywhere."""
    return inbound if inbound is not None and _SANE_ID.fullmatch(inbound) else None


def new_id() -> str:
    """An id for a request whose caller gave none."""
    return "req-" + _bits(96).to_bytes(12).hex()
