"""Keeps what one request asks of the engine's API process from holding up everybody else's.

vLLM parses, renders and tokenizes each request in the one process whose event loop also writes all answers.
A large request takes its turn for that, with those of other callers before the caller's own next one, until
vLLM has handed its prompt to the engine core. One that cannot fit the model is refused before it is parsed.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

import msgspec

from hubgate.backend.plugin.fair_queue import FairQueue
from hubgate.wire import endpoints

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LARGE: Final = 8 * 1024  # bytes of a body; smaller ones take some hundredths of a second at most
AT_ONCE: Final = 2  # large requests that are prepared: one renders while another is tokenized
PAUSE: Final = 0.25  # seconds between two of them, at most
CHARACTERS: Final = 16  # for each token of the context: far above what any language or program text has
MAX_VALUES: Final = (
    1024 * 1024
)  # of a body, a tenth of a second to parse; or as many as the context has tokens
LEAST: Final = 64 * 1024  # characters that any model may be sent; vLLM tells exactly whether they fit

# Endpoints whose body is one conversation, so that all text in it must fit the context.
_CONVERSATIONS: Final = frozenset(
    {
        endpoints.CHAT_COMPLETIONS,
        endpoints.RESPONSES,
        endpoints.MESSAGES,
        endpoints.COUNT_TOKENS,
        endpoints.TOKENIZE,
    }
)
_ANTHROPIC: Final = frozenset({endpoints.MESSAGES, endpoints.COUNT_TOKENS})
# The keys whose values may be media, and how those begin. Within a string their quotes would be escaped.
_MEDIA: Final = ((b'"url"', b"data:"), (b'"image_url"', b"data:"), (b'"data"', b""))
_MEDIA_BEGINS: Final = re.compile(rb'\s*:\s*"')
_BYTES_A_CHARACTER: Final = 4  # of UTF-8, at most


def longest(context: int) -> int:
    """How many characters of text a model with a context of so many tokens is sent at most."""
    return max(LEAST, CHARACTERS * context)


class Preparation:
    """One request of a caller's, and what it holds."""

    def __init__(self, caller: str) -> None:
        self.caller = caller
        # Waits for a place among the caller's requests with dear grammars, which all of its prompts share.
        self.dear: asyncio.Task[None] | None = None
        self._on_submitted: list[Callable[[], None]] = []
        self._on_end: list[Callable[[], None]] = []

    def until_submitted(self, release: Callable[[], None]) -> None:
        """Call `release` once: when the prompt is ready for the engine core, or the request has ended."""
        self._on_submitted.append(release)

    def until_end(self, release: Callable[[], None]) -> None:
        """Call `release` when the request has ended."""
        self._on_end.append(release)

    def submitted(self) -> None:
        """The prompt is ready: there is no more to do than to hand it on, and to pass the answer on."""
        while self._on_submitted:
            self._on_submitted.pop()()

    def end(self) -> None:
        self.submitted()
        while self._on_end:
            self._on_end.pop()()


_current: ContextVar[Preparation | None] = ContextVar("preparation", default=None)


def current() -> Preparation | None:
    """The request that this task works for; `None` for the supervisor's."""
    return _current.get()


@contextmanager
def preparing(caller: str) -> Iterator[None]:
    """Count what runs in this context, and the tasks that it starts, as one request of this caller's."""
    preparation = Preparation(caller)
    token = _current.set(preparation)
    try:
        yield
    finally:
        _current.reset(token)
        preparation.end()


class Prepared:
    """ASGI: the same application, which is given large JSON bodies whole and in turn."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._turns = FairQueue(AT_ONCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        preparation = _current.get()
        if preparation is None or scope["type"] != "http" or not _is_large(scope):
            await self._app(scope, receive, send)
            return
        body = await _whole(receive)
        if body is None:
            return
        context: int = scope["app"].state.vllm_config.model_config.max_model_len
        most = longest(context)
        if scope["path"] in _CONVERSATIONS and text_bytes(body) > most * _BYTES_A_CHARACTER:
            text = f"The text is too long for this model: it may be {most} characters long at most here."
            await _refuse(send, scope["path"], text)
            return
        if not self._turns.try_enter() and not await self._wait(preparation.caller, receive):
            return
        loop = asyncio.get_running_loop()
        began = loop.time()

        def leave() -> None:
            # It may have held the loop for all that time: those who waited for that go first.
            pause = min(loop.time() - began, PAUSE)
            loop.call_later(pause, self._turns.leave)

        preparation.until_submitted(leave)
        most = max(MAX_VALUES, context)
        if body.count(b",") >= most and values(body) > most:
            text = f"The lists are too long: all in a request may hold {most} token ids at most here."
            await _refuse(send, scope["path"], text)
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                preparation.submitted()
            await send(message)

        await self._app(scope, _replaying(body, receive), sending)

    async def _wait(self, caller: str, receive: Receive) -> bool:
        """Wait for the request's turn; whether its caller has waited too."""
        turn = asyncio.create_task(self._turns.enter(caller))
        left = asyncio.ensure_future(receive())  # behind the body, that is the end of the connection
        granted = False
        try:
            await asyncio.wait((turn, left), return_when=asyncio.FIRST_COMPLETED)
            granted = turn.done()
            return granted
        finally:
            left.cancel()
            if not granted and not turn.cancel():
                self._turns.leave()  # it came in the same moment


def text_bytes(body: bytes) -> int:
    """The bytes of a JSON body without those of the media in it."""
    total = len(body)
    for key, beginning in _MEDIA:
        at = body.find(key)
        while at >= 0:
            at += len(key)
            begins = _MEDIA_BEGINS.match(body, at)
            if begins is not None and body.startswith(beginning, begins.end()):
                at = body.find(b'"', begins.end())
                if at < 0:
                    break
                total -= at - begins.end()
            at = body.find(key, at)
    return total


def values(body: bytes) -> int:
    """How many values a JSON body holds at most: one more than it has commas outside of strings."""
    pieces = body.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')  # every second is a string
    return 1 + sum([piece.count(b",") for piece in pieces[::2]])


def _is_large(scope: Scope) -> bool:
    """By its length. A form is a recording, which comes as its caller sends it."""
    headers = dict(scope["headers"])
    if headers.get(b"content-type", b"").startswith(b"multipart/"):
        return False
    if b"transfer-encoding" in headers:
        return True
    length: bytes = headers.get(b"content-length", b"0")
    return not length.isdigit() or int(length) > LARGE


async def _whole(receive: Receive) -> bytes | None:
    """The body; `None` if its sender has left. The proxy has all of it before it sends the first part."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def _replaying(body: bytes, receive: Receive) -> Receive:
    parts = [body]

    async def replayed() -> Message:
        if parts:
            return {"type": "http.request", "body": parts.pop(), "more_body": False}
        return await receive()

    return replayed


async def _refuse(send: Send, path: str, text: str) -> None:
    error = {"type": "invalid_request_error", "message": text}
    if path in _ANTHROPIC:
        content: dict[str, Any] = {"type": "error", "error": error}
    else:
        content = {"error": {**error, "param": None, "code": "invalid_request"}}
    body = msgspec.json.encode(content)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 400, "headers": headers})
    await send({"type": "http.response.body", "body": body})
