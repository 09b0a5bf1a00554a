"""Reads request bodies: only after the caller is known, within a limit each and one for all."""

import asyncio

from hubgate.proxy import settings
from hubgate.proxy.body.large_json import LargeBody
from hubgate.proxy.errors import Denied
from hubgate.proxy.http.request import BodyError, ServerRequest


class CutShortError(Exception):
    """A body that is passed on while it comes will not come to its end; `denied` is why."""

    def __init__(self, denied: Denied) -> None:
        super().__init__(denied.message)
        self.denied = denied


class BodyReader:
    """Counts what is held in memory for all requests together."""

    def __init__(self, limits: settings.Request, idle: float) -> None:
        # As of the settings, whose attributes are slow to look up.
        self._largest: int = limits.max_body_bytes
        self._most: int = limits.max_buffered_bytes
        self._idle = idle
        self._held = 0

    def take(self, request: ServerRequest) -> bytes | Denied | None:
        """Take one JSON body, if all of it is here; `None`: it is welcome, `read` it.

        What is small comes with its head. What is returned counts as held until `release`d.
        """
        refused = self.refusal(request, "application/json")
        if refused is not None:
            return refused
        whole = request.read_whole()
        coming = request.length if whole is None else len(whole)
        if self._held + coming > self._most:
            return self._too_many()
        return None if whole is None else self._hold(whole)

    async def read(self, request: ServerRequest) -> LargeBody | Denied:
        """Read one JSON body that is still coming. What is returned counts as held until `release`d."""
        self.invite(request)
        body = LargeBody()
        try:
            refused = await self._gather(request, body)
        except BaseException:
            self.release(len(body))
            raise
        if refused is not None:
            self.release(len(body))
            return refused
        return body

    async def _gather(self, request: ServerRequest, body: LargeBody) -> Denied | None:
        while part := await self.next(request):
            if isinstance(part, Denied):
                return part
            self._held += len(part)
            if refused := body.add(part):
                return refused
            if len(body) > self._largest:
                return self.too_large()
            if self._held > self._most:
                return self._too_many()
        return body.end()

    async def next(self, request: ServerRequest) -> bytes | Denied:
        """The next bytes of a body that is not held here, b"" at its end."""
        try:
            async with asyncio.timeout(self._idle):
                return await request.read()
        except TimeoutError:
            return Denied("request_timeout", f"The body stalled for {self._idle:g} seconds.")
        except BodyError:
            return Denied("invalid_request", "The body's chunks are malformed (RFC 9112, section 7.1).")

    def invite(self, request: ServerRequest) -> None:
        """Tell a caller who waits for it that the body is wanted."""
        if request.head.version == "1.1" and request.head.header("expect") is not None:
            request.go_on()

    def _hold(self, body: bytes) -> bytes | Denied:
        if len(body) > self._largest:
            return self.too_large()
        self._held += len(body)
        return body

    def release(self, size: int) -> None:
        """Say that a body of `size` bytes is no longer held."""
        self._held -= size

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

    def _too_many(self) -> Denied:
        return Denied(
            "rate_limit_exceeded", "Too many large requests are being read right now.", retry_after=1
        )

    def too_large(self) -> Denied:
        """The refusal of more bytes than one request may have."""
        return Denied("request_too_large", f"The body may be {self._largest} bytes long at most.")
