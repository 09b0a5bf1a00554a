"""Carries one authorized request to an engine and its answer back, byte by byte."""

import asyncio
import re
from typing import Final

import msgspec

from hubgate.proxy import errors, settings
from hubgate.proxy.body.large_json import Pieces
from hubgate.proxy.body.reader import CutShortError
from hubgate.proxy.context import RequestContext
from hubgate.proxy.errors import Denied
from hubgate.proxy.frozen_struct import FrozenStruct
from hubgate.proxy.http.request import Flow, ServerRequest
from hubgate.proxy.metrics.registry import Metrics
from hubgate.proxy.upstream import header_filter
from hubgate.proxy.upstream.connection_pool import ConnectionPool
from hubgate.proxy.upstream.engine_connection import (
    Address,
    BodySource,
    BrokenError,
    Patience,
    TooLongError,
    size,
)
from hubgate.proxy.upstream.gate_line import GateLine
from hubgate.proxy.upstream.response_head import ResponseHead
from hubgate.proxy.upstream.schemas import Refusal
from hubgate.proxy.upstream.usage import UsageEventFilter, UsageMeter
from hubgate.wire.control_api import SHARE_USED, EngineInfo
from hubgate.wire.endpoints import COUNTING

BYTES_A_TOKEN: Final = 4  # of a prompt in English, roughly
MAX_ERROR: Final = 64 * 1024  # bytes of an engine's error that are read
SMALL: Final = 64  # bytes: what is shorter may be a part of an event

# After these nothing follows: OpenAI's own streams, Anthropic's, and those of the Responses API.
_LAST_EVENT: Final = re.compile(
    rb"(?:\A|\n)(?:data: ?\[DONE\]"
    rb"|event: ?(?:message_stop|response\.(?:completed|incomplete|failed))\n[^\n]*)\n\n\Z"
)

# The engine's words on a bad request help; where its files lie is nobody's business.
_PATH = re.compile(r"(?:file://|(?<![\w/.]))/(?:[\w.@-]+/)+[\w.@-]*")


class StaleEngine(FrozenStruct):
    """The engine is not what the proxy knew: gone, restarted, or without this model.

    Nothing of the request was accepted, so it may be sent again after a new `ensure`, if it is still there.
    """

    unloaded: bool  # it is there, and says that it does not hold the model


UNREACHED: Final = StaleEngine(unloaded=False)  # nobody took the connection
DIED: Final = Denied("upstream_error", "The model failed to answer.", retry_after=5)  # before it answered


class Relay:
    """The data path to all engines."""

    def __init__(
        self, connections: ConnectionPool, line: GateLine, timeouts: settings.Timeouts, metrics: Metrics
    ) -> None:
        self._connections = connections
        self._line = line
        self._patience = Patience(first_byte=timeouts.first_byte, idle=timeouts.idle, answer=timeouts.answer)
        self._prompt_tokens = metrics.tokens.labels("prompt")
        self._completion_tokens = metrics.tokens.labels("completion")

    async def forward(
        self,
        context: RequestContext,
        request: ServerRequest,
        *,
        address: Address,
        engine: EngineInfo,
        body: Pieces | BodySource,
        content_type: str,
        passed: str,
        grant: str,
        cost: str = "",
        withhold: bool = False,
    ) -> Denied | StaleEngine | None:
        """Send `body` to the engine under this grant, and its answer to the caller; `None`: that is done.

        `passed` are the lines of the caller's headers that go with it, `cost` is for the engine's gate.
        With `withhold` the event that tells a stream's usage is read and not passed on.
        The caller leaving cancels this coroutine, which closes the engine's connection and with
        that ends the generation.
        """
        head = header_filter.to_upstream(
            context.endpoint,
            address,
            passed,
            size(body) if isinstance(body, tuple) else None,
            grant=grant,
            cost=cost,
            request_id=context.request_id,
            content_type=content_type,
        )
        connection = self._connections.take(address)
        if connection is None:
            try:
                connection = await self._connections.open(address)
            except (OSError, TimeoutError):
                return UNREACHED
        line = self._line.enter(context, request, address, engine)
        answer = _Answer(context, request, connection, line, UsageEventFilter() if withhold else None)
        try:
            await connection.exchange((head, body), answer, self._patience)
        except TimeoutError:
            return answer.broke_off(_late())
        except BrokenError:
            return answer.broke_off(_broken() if answer.status else DIED)
        except TooLongError:
            return answer.broke_off(_too_long(self._patience.answer))
        except CutShortError as error:
            return answer.broke_off(error.denied)
        except asyncio.CancelledError:
            # The caller left, which a client may as soon as it has read the last event.
            context.complete = answer.complete()
            answer.left = not context.complete
            locked_out = context.interrupted()
            if locked_out is None:
                raise
            return answer.broke_off(locked_out)
        finally:
            answer.begin()
            request.set_source(None)  # the connection may be another request's now: not held for this caller
            self._count(context, answer)
        if answer.status != 200:
            return answer.refusal()
        answer.end()
        return None

    def _count(self, context: RequestContext, answer: "_Answer") -> None:
        usage = answer.meter.usage()
        if usage is not None:
            prompt, completion = usage
        elif answer.meter.events:
            # Cut short, by either side: who leaves before the count comes must not have it for nothing.
            context.estimated = True
            prompt, completion = context.bytes_in // BYTES_A_TOKEN, answer.meter.events
        elif answer.left or (answer.status == 200 and context.endpoint in COUNTING):
            # The prompt alone: what was generated for who left before an answer in one piece, nobody told.
            # What counts or converts tells how much, but for texts made of ids, and answers too long to keep.
            context.estimated = True
            prompt, completion = context.bytes_in // BYTES_A_TOKEN, 0
        else:
            return
        context.prompt_tokens, context.completion_tokens = prompt, completion
        self._prompt_tokens.inc(prompt)
        self._completion_tokens.inc(completion)


class _Answer:
    """Passes a good answer on as it comes; keeps another one, to be told in our words."""

    def __init__(
        self,
        context: RequestContext,
        request: ServerRequest,
        source: Flow,
        line: GateLine | None,
        withheld: UsageEventFilter | None,
    ) -> None:
        self.status = 0
        self.left = False  # whether the caller did not wait for the end
        self.meter = UsageMeter(streaming=False)
        self._context = context
        self._request = request
        self._source = source
        self._line = line  # where it may be told that it waits
        self._withheld = withheld
        self._head = b""  # ours, which goes out with the first bytes
        self._sent = False
        self._last = b""  # what went out last, and before it if that was little
        self._streaming = False
        self._refused = bytearray()
        self._retry_after: int | None = None

    def begin(self) -> None:
        """Tell the caller no more that they wait."""
        if self._line is not None:
            self._line.leave(self._request)
            self._line = None

    def head(self, head: ResponseHead, length: int) -> None:
        self.begin()
        self.status = head.status
        self._retry_after = head.retry_after
        if head.waited:
            self._context.queue_seconds = head.waited
        if head.status != 200:
            return
        if head.framing == "unclear":  # its end could not be told from the death of the engine
            raise BrokenError
        self._streaming = head.streaming
        if head.streaming:
            self.meter = UsageMeter(streaming=True)
        if not self._request.begun:
            self._head = self._request.begin(
                200, head.lines + self._context.lines(), length=length if head.framing == "length" else None
            )
        elif not self._streaming:  # heartbeats promised a stream
            raise BrokenError
        self._context.answered(200)
        self._request.set_source(self._source)

    def data(self, data: bytes, chunk: bytes = b"") -> None:
        if self.status != 200:
            if len(self._refused) < MAX_ERROR:
                self._refused += data
            return
        if self.meter.add(data) and self._withheld is not None and self._streaming:
            data, chunk = self._withheld.pass_on(data), b""
        if data:
            self._pass_on(data, chunk)

    def _pass_on(self, data: bytes, chunk: bytes = b"") -> None:
        if self._sent:
            self._request.write(data, chunk=chunk)
        else:
            self._sent = True
            self._context.first_byte = self._context.elapsed
            self._request.write(data, self._head)
            self._head = b""
        size = len(data)
        self._last = data if size >= SMALL else self._last[-SMALL:] + data
        self._context.bytes_out += size

    def end(self) -> None:
        """The engine's answer is complete, and so is ours."""
        self._flush()
        self._request.end(self._head)

    def _flush(self) -> None:
        if self._withheld is not None and (rest := self._withheld.rest()):
            self._pass_on(rest)

    def complete(self) -> bool:
        """Whether a stream's last event went out: what comes after it is framing."""
        if not self._streaming or self._request.behind:
            return False
        if _LAST_EVENT.search(self._last) is not None:
            return True
        # The last event of a response holds all of it, so that it may have come in pieces: the only one with
        # a usage (vllm/entrypoints/openai/responses/serving.py).
        responses = self._context.dialect == "responses"
        return responses and self._last.endswith(b"\n\n") and self.meter.usage() is not None

    def refusal(self) -> Denied | StaleEngine:
        """What another status means to the caller."""
        if self.status in (401, 421):
            return StaleEngine(unloaded=self.status == 421)
        # An engine's refusal in our words: its own for a bad request, none of them for its own faults.
        if self.status not in (400, 404, 413, 422, 429):
            return _broken()
        try:
            error = msgspec.json.decode(bytes(self._refused), type=Refusal).error
        except (msgspec.DecodeError, UnicodeDecodeError):
            return _broken()
        if self.status == 429:
            if error is None or error.code != SHARE_USED:  # it is not the gate's
                return _broken()
            message = "Your share of this engine is used; others wait."
            return Denied("rate_limit_exceeded", message, retry_after=self._retry_after or 1)
        if error is not None:
            return Denied("invalid_request", _PATH.sub("(path)", error.message)[:2000])
        if self.status == 404:
            return Denied("invalid_request", f"This model does not answer on {self._context.endpoint}.")
        return _broken()

    def broke_off(self, told: Denied) -> Denied | None:
        """What is left to tell of an answer that broke; `None` if it was told in the middle of it."""
        self._flush()
        if not self._sent:
            return told  # nothing of the engine's reached the caller
        break_off(self._context, self._request, told, streaming=self._streaming)
        return None


def break_off(context: RequestContext, request: ServerRequest, told: Denied, *, streaming: bool) -> None:
    """End an answer that has begun so that it cannot look complete: an error event, no final chunk."""
    context.failed(told.code)
    if streaming:
        event = b"\n\n" + errors.event(told, context.dialect, context.request_id)
        context.bytes_out += len(event)
        request.write(event)
    request.cut()


def _broken() -> Denied:
    return Denied("upstream_error", "The model failed to answer.", retry_after=5)


def _late() -> Denied:
    return Denied("upstream_timeout", "The model did not answer in time.")


def _too_long(seconds: float) -> Denied:
    return Denied("upstream_timeout", f"The answer was not complete after {seconds:g} seconds, the most.")
