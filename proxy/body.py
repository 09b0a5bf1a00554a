"""Reads request bodies: only after the caller is known, within a limit each and one for all."""

import asyncio

from aiohttp import HttpVersion11, web

from proxy import settings
from proxy.errors import Denied


class Bodies:
    """Counts what is held in memory for all requests together."""

    def __init__(self, limits: settings.Request, idle: float) -> None:
        self._limits = limits
        self._idle = idle
        self._held = 0

    async def read(self, inbound: web.BaseRequest) -> bytes | Denied:
        """Read one JSON body. What is returned counts as held until `release`d."""
        refused = self._unreadable(inbound)
        if refused is not None:
            return refused
        if _waits_for_leave(inbound) and inbound.transport is not None:
            inbound.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")  # RFC 9110, section 10.1.1
        body = bytearray()
        try:
            while True:
                chunk = await self._next(inbound)
                if not chunk:
                    break
                self._held += len(chunk)
                body += chunk
                if len(body) > self._limits.max_body_bytes:
                    self.release(len(body))
                    return self._too_large()
                if self._held > self._limits.max_buffered_bytes:
                    self.release(len(body))
                    return self._too_many()
        except TimeoutError:
            self.release(len(body))
            return Denied("request_timeout", f"The body stalled for {self._idle:g} seconds.")
        except web.RequestPayloadError:
            self.release(len(body))
            return Denied("invalid_request", "The body is not framed as RFC 9112 defines it.")
        except BaseException:
            self.release(len(body))
            raise
        return bytes(body)

    def release(self, size: int) -> None:
        """Say that a body of `size` bytes is no longer held."""
        self._held -= size

    async def _next(self, inbound: web.BaseRequest) -> bytes:
        try:
            async with asyncio.timeout(self._idle):
                return await inbound.content.readany()
        except RuntimeError:  # aiohttp's word for a connection that has been closed
            raise ConnectionResetError from None

    def _unreadable(self, inbound: web.BaseRequest) -> Denied | None:
        if any(expect.lower() != "100-continue" for expect in inbound.headers.getall("Expect", ())):
            return Denied("expectation_failed", "The only expectation that can be met is 100-continue.")
        if any(coding.lower() != "identity" for coding in inbound.headers.getall("Content-Encoding", ())):
            return Denied("unsupported_media_type", "Send the body without compression.")
        if inbound.content_type != "application/json":
            return Denied("unsupported_media_type", "Send JSON, with Content-Type: application/json.")
        if (inbound.content_length or 0) > self._limits.max_body_bytes:
            return self._too_large()
        if self._held + (inbound.content_length or 0) > self._limits.max_buffered_bytes:
            return self._too_many()
        return None

    def _too_many(self) -> Denied:
        return Denied(
            "rate_limit_exceeded", "Too many large requests are being read right now.", retry_after=1
        )

    def _too_large(self) -> Denied:
        return Denied(
            "request_too_large", f"The body may be {self._limits.max_body_bytes} bytes long at most."
        )


def _waits_for_leave(inbound: web.BaseRequest) -> bool:
    """Whether the body comes only after 100; HTTP/1.0 does not know it (RFC 9110, section 10.1.1)."""
    return inbound.version >= HttpVersion11 and inbound.headers.get("Expect", "").lower() == "100-continue"
