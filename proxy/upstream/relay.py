"""Carries one authorized request to an engine and its answer back, byte by byte."""

import re
from typing import Final

import msgspec

from proxy import errors, settings
from proxy.body import CutShortError
from proxy.errors import Denied
from proxy.exchange import Exchange
from proxy.http.inbound import Flow, Inbound
from proxy.metrics import Metrics
from proxy.skeleton import Pieces
from proxy.upstream import headers
from proxy.upstream.answers import Refusal
from proxy.upstream.connection import Address, BrokenError, HeldError, Source, size
from proxy.upstream.connections import Connections
from proxy.upstream.head import Head
from proxy.usage import Meter, Withheld
from proxy.value import Value

BYTES_A_TOKEN: Final = 4  # of a prompt in English, roughly
MAX_ERROR: Final = 64 * 1024  # bytes of an engine's error that are read

# The engine's words on a bad request help; where its files lie is nobody's business.
_PATH = re.compile(r"(?:file://|(?<![\w/.]))/(?:[\w.@-]+/)+[\w.@-]*")


class Stale(Value):
    """The engine is not what the proxy knew: gone, restarted, or without this model.

    Nothing of the request was accepted, so it may be sent again after a new `ensure`, if it is still there.
    """


class Relay:
    """The data path to all engines."""

    def __init__(self, connections: Connections, timeouts: settings.Timeouts, metrics: Metrics) -> None:
        self._connections = connections
        self._first_byte: float = timeouts.first_byte  # seconds, as is the next
        self._idle: float = timeouts.idle
        self._prompt_tokens = metrics.tokens.labels("prompt")
        self._completion_tokens = metrics.tokens.labels("completion")

    async def forward(
        self,
        exchange: Exchange,
        inbound: Inbound,
        *,
        address: Address,
        body: Pieces | Source,
        content_type: str,
        passed: str,
        grant: str,
        withhold: bool = False,
    ) -> Denied | Stale | None:
        """Send `body` to the engine under this grant, and its answer to the caller; `None`: that is done.

        `passed` are the lines of the caller's headers that go with it.
        With `withhold` the event that tells a stream's usage is read and not passed on.
        The caller leaving cancels this coroutine, which closes the engine's connection and with
        that ends the generation.
        """
        head = headers.to_upstream(
            exchange.endpoint,
            address,
            passed,
            size(body) if isinstance(body, tuple) else None,
            grant=grant,
            request_id=exchange.request_id,
            content_type=content_type,
        )
        connection = self._connections.take(address)
        if connection is None:
            try:
                connection = await self._connections.open(address)
            except (OSError, TimeoutError):
                return Stale()
        answer = _Answer(exchange, inbound, connection, Withheld() if withhold else None)
        try:
            await connection.exchange((head, body), answer, first_byte=self._first_byte, idle=self._idle)
        except TimeoutError:
            return answer.broke_off(_late())
        except BrokenError:
            return answer.broke_off(_broken())
        except HeldError:
            exchange.left()
            inbound.cut()
            return None
        except CutShortError as error:
            return answer.broke_off(error.denied)
        finally:
            inbound.follow(None)  # the connection may be somebody else's now, and is not held for this caller
            self._count(exchange, answer)
        if answer.status != 200:
            return answer.refusal()
        answer.end()
        return None

    def _count(self, exchange: Exchange, answer: "_Answer") -> None:
        usage = answer.meter.usage()
        if usage is not None:
            prompt, completion = usage
        elif answer.meter.events:
            # Cut short, by either side: who leaves before the count comes must not have it for nothing.
            exchange.estimated = True
            prompt, completion = exchange.bytes_in // BYTES_A_TOKEN, answer.meter.events
        else:
            return
        exchange.prompt_tokens, exchange.completion_tokens = prompt, completion
        self._prompt_tokens.inc(prompt)
        self._completion_tokens.inc(completion)


class _Answer:
    """Passes a good answer on as it comes; keeps another one, to be told in our words."""

    def __init__(self, exchange: Exchange, inbound: Inbound, source: Flow, withheld: Withheld | None) -> None:
        self.status = 0
        self.meter = Meter(streaming=False)
        self._exchange = exchange
        self._inbound = inbound
        self._source = source
        self._withheld = withheld
        self._head = b""  # ours, which goes out with the first bytes
        self._sent = False
        self._streaming = False
        self._refused = bytearray()

    def head(self, head: Head, length: int) -> None:
        self.status = head.status
        if head.status != 200:
            return
        if head.framing == "unclear":  # its end could not be told from the death of the engine
            raise BrokenError
        self._streaming = head.streaming
        if head.streaming:
            self.meter = Meter(streaming=True)
        if not self._inbound.begun:
            self._head = self._inbound.begin(
                200, head.lines + self._exchange.lines(), length=length if head.framing == "length" else None
            )
        elif not self._streaming:  # heartbeats promised a stream
            raise BrokenError
        self._exchange.answered(200)
        self._inbound.follow(self._source)

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
            self._inbound.write(data, chunk=chunk)
        else:
            self._sent = True
            self._exchange.first_byte = self._exchange.elapsed
            self._inbound.write(data, self._head)
            self._head = b""
        self._exchange.bytes_out += len(data)

    def end(self) -> None:
        """The engine's answer is complete, and so is ours."""
        self._flush()
        self._inbound.end(self._head)

    def _flush(self) -> None:
        if self._withheld is not None and (rest := self._withheld.rest()):
            self._pass_on(rest)

    def refusal(self) -> Denied | Stale:
        """What another status means to the caller."""
        if self.status in (401, 421):
            return Stale()
        # An engine's refusal in our words: its own for a bad request, none of them for its own faults.
        if self.status not in (400, 404, 413, 422):
            return _broken()
        try:
            error = msgspec.json.decode(bytes(self._refused), type=Refusal).error
        except (msgspec.DecodeError, UnicodeDecodeError):
            return _broken()
        if error is not None:
            return Denied("invalid_request", _PATH.sub("(path)", error.message)[:2000])
        if self.status == 404:
            return Denied("invalid_request", f"This model does not answer on {self._exchange.endpoint}.")
        return _broken()

    def broke_off(self, told: Denied) -> Denied | None:
        """What is left to tell of an answer that broke; `None` if it was told in the middle of it."""
        self._flush()
        if not self._sent:
            return told  # nothing of the engine's reached the caller
        break_off(self._exchange, self._inbound, told, streaming=self._streaming)
        return None


def break_off(exchange: Exchange, inbound: Inbound, told: Denied, *, streaming: bool) -> None:
    """End an answer that has begun so that it cannot look complete: an error event, no final chunk."""
    exchange.failed(told.code)
    if streaming:
        event = b"\n\n" + errors.event(told, exchange.dialect, exchange.request_id)
        exchange.bytes_out += len(event)
        inbound.write(event)
    inbound.cut()


def _broken() -> Denied:
    return Denied("upstream_error", "The model failed to answer.", retry_after=5)


def _late() -> Denied:
    return Denied("upstream_timeout", "The model did not answer in time.")
