"""Tells a streaming caller who waits that it goes on, in SSE comments.

A comment is a line that begins with a colon; every reader of event streams passes it over (WHATWG HTML,
section 9.2.6), and it keeps load balancers and SDKs from giving up.
"""

import asyncio
from typing import Self

from hubgate.proxy.context import RequestContext
from hubgate.proxy.http.request import ServerRequest, lines
from hubgate.proxy.upstream.header_filter import STREAM
from hubgate.wire.control_api import Progress

_STREAM = lines((("Content-Type", "text/event-stream; charset=utf-8"),)) + STREAM
_VERBS = {"queued": "waiting for", "downloading": "loading", "starting": "starting", "loading": "loading"}


class Heartbeat:
    """Beats every `after` seconds while it is entered. The first beat sends the head of the answer.

    So what is decided sooner can still be an error with a status of its own; later it is an event.
    """

    def __init__(self, context: RequestContext, request: ServerRequest, after: float) -> None:
        self._context = context
        self._request = request
        self._after = after
        self._comment = b": hubgate\n\n"
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._timer = asyncio.get_running_loop().call_later(self._after, self._beat)
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def progress(self, progress: Progress) -> None:
        """What the next beat tells."""
        self._comment = f": hubgate {describe(progress)}\n\n".encode()

    def _beat(self) -> None:
        beat(self._context, self._request, self._comment)
        self._timer = asyncio.get_running_loop().call_later(self._after, self._beat)


def beat(context: RequestContext, request: ServerRequest, comment: bytes) -> None:
    """Send a comment; the first one has the head of the answer before it."""
    head = b""
    if not request.begun:
        context.answered(200)
        head = request.begin(200, _STREAM + context.lines(), length=None)
    request.write(comment, head)
    context.bytes_out += len(comment)


def describe(progress: Progress) -> str:
    """One line for a person: `loading alice/pirate-lora 43% 12.1 MB/s`."""
    repo = progress.repo.partition("@")[0]
    if isinstance(progress.place, int):
        return f"waiting for {repo}, number {progress.place} in line"
    words = [_VERBS[progress.stage], repo]
    if progress.stage == "downloading":
        if progress.total:
            words.append(f"{100 * progress.done // progress.total}%")
        if progress.rate:
            words.append(f"{progress.rate / 1e6:.1f} MB/s")
    return " ".join(words)
