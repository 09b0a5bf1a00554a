"""Reads request bodies: only after the caller is known, within a limit each and one for all.

No caller can take up what is for all. An identity may hold as many bytes as it leaves free, so half of them
if it is alone, a third if two want as much as they can have; and one body of any size while there is room
(the rule is that of switches for their ports: Choudhury and Hahne, "Dynamic queue length thresholds for
shared-memory packet switches", 1998). The first 64 KiB of each body do not count, so that a small request is
never refused for large ones: there are as many of those as `limits.concurrent_requests` lets in.
"""

import asyncio

from hubgate.proxy import settings
from hubgate.proxy.body.large_json import LargeBody
from hubgate.proxy.body.round_robin import RoundRobin
from hubgate.proxy.errors import Denied
from hubgate.proxy.http.request import WINDOW, BodyError, ServerRequest
from hubgate.proxy.net.pace import Pace


class CutShortError(Exception):
    """A body that is passed on while it comes will not come to its end; `denied` is why."""

    def __init__(self, denied: Denied) -> None:
        super().__init__(denied.message)
        self.denied = denied


class BodyReader:
    """Counts what is held in memory for all requests together, and for each identity."""

    def __init__(self, limits: settings.Request, idle: float, least_rate: float) -> None:
        """A caller may pause for `idle` seconds, and has to send `least_rate` bytes a second on average."""
        # As of the settings, whose attributes are slow to look up.
        self._largest: int = limits.max_body_bytes
        self._most: int = limits.max_buffered_bytes
        self._idle = idle
        self._least_rate = least_rate
        self._held = 0
        self._shares: dict[str, int] = {}  # of that, by `Identity.sub`
        self.turns = RoundRobin()

    def take(self, request: ServerRequest) -> bytes | Denied | None:
        """Take one JSON body, if all of it is here; `None`: it is welcome, `read` it.

        What is small comes with its head, and does not count as held.
        """
        refused = self.refusal(request, "application/json")
        if refused is not None:
            return refused
        whole = request.read_whole()
        return self.too_large() if whole is not None and len(whole) > self._largest else whole

    async def read(self, request: ServerRequest, sub: str) -> LargeBody | Denied:
        """Read one JSON body that is still coming. What is returned is held by `sub` until `release`d."""
        refused = self._hold(sub, 0, request.length)
        self.release(sub, request.length)  # it counts as it comes, since it may never
        if refused is not None:
            return refused
        self.invite(request)
        body = LargeBody()
        try:
            refused = await self._gather(request, body, sub)
        except BaseException:
            self.release(sub, len(body))
            raise
        if refused is not None:
            self.release(sub, len(body))
            return refused
        return body

    async def _gather(self, request: ServerRequest, body: LargeBody, sub: str) -> Denied | None:
        pace = self.pace()
        while part := await self.next(request, pace):
            if isinstance(part, Denied):
                return part
            await self.turns.begin(sub)
            try:
                busy = self._hold(sub, len(body), len(body) + len(part))
                refused = body.add(part) or busy  # what came counts until it is released, refused or not
            finally:
                self.turns.end(sub)
            if refused:
                return refused
            if len(body) > self._largest:
                return self.too_large()
        await self.turns.begin(sub)
        try:
            return body.end()
        finally:
            self.turns.end(sub)

    def pace(self) -> Pace:
        """Of one body, for `next`."""
        return Pace(self._least_rate, self._idle)

    async def next(self, request: ServerRequest, pace: Pace) -> bytes | Denied:
        """The next bytes of a body that is not held here, b"" at its end."""
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            async with asyncio.timeout(pace.left):
                part = await request.read()
        except TimeoutError:
            least = f"{self._least_rate:g} bytes a second on average"
            slow = f"The body came too slowly: it may pause for {self._idle:g} seconds, and needs {least}."
            return Denied("request_timeout", slow)
        except BodyError:
            return Denied("invalid_request", "The body's chunks are malformed (RFC 9112, section 7.1).")
        pace.waited(clock() - began, len(part))
        return part

    def invite(self, request: ServerRequest) -> None:
        """Tell a caller who waits for it that the body is wanted."""
        if request.head.version == "1.1" and request.head.header("expect") is not None:
            request.go_on()

    def _hold(self, sub: str, before: int, size: int) -> Denied | None:
        """Count a body that has grown from `before` to `size` bytes, and refuse it if that is too much.

        It counts also then, until it is `release`d.
        """
        more = max(0, size - WINDOW) - max(0, before - WINDOW)
        if not more:
            return None
        self._held += more
        self._shares[sub] = share = self._shares.get(sub, 0) + more
        free = self._most - self._held
        if free < 0:
            return _busy("Too many large requests are being read right now.")
        if share > max(free, self._largest):
            return _busy("Your large requests take up all that one caller may have; wait for one to end.")
        return None

    def release(self, sub: str, size: int) -> None:
        """Say that a body of `size` bytes is no longer held."""
        counted = max(0, size - WINDOW)
        if not counted:
            return
        self._held -= counted
        self._shares[sub] = rest = self._shares[sub] - counted
        if not rest:
            del self._shares[sub]

    def refusal(self, request: ServerRequest, media_type: str) -> Denied | None:
        """Why the body is not read at all, from the headers alone."""
        media = ""
        for name, value in request.head.headers:
            if name == "expect" and value.lower() != "100-continue":
                return Denied("expectation_failed", "The only expectation that can be met is 100-continue.")
            if name == "content-encoding" and value.lower() != "identity":
                return Denied("unsupported_media_type", "Send the body without compression.")
            if name == "content-type":  # which stands once at most, by the connection's word
                media = value
        if media != media_type and media.partition(";")[0].strip().lower() != media_type:
            what = "JSON" if media_type == "application/json" else "a form"
            return Denied("unsupported_media_type", f"Send {what}, with Content-Type: {media_type}.")
        return self.too_large() if request.length > self._largest else None

    def too_large(self) -> Denied:
        """The refusal of more bytes than one request may have."""
        return Denied("request_too_large", f"The body may be {self._largest} bytes long at most.")


def _busy(message: str) -> Denied:
    return Denied("rate_limit_exceeded", message, retry_after=1)
