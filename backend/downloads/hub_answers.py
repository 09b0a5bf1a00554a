"""What the download worker takes of the Hub's answers, before its client reads them: a hook of httpx.

The client reads an answer of the API to its end, however long, unpacks it and parses it at any depth.
Files are bounded elsewhere: by the size of the largest one (RLIMIT_FSIZE), and by their hashes.
"""

from collections.abc import Iterator
from typing import Final

import httpx2

from hubgate.backend.downloads.hub_errors import BusyError, NonsenseError
from hubgate.wire.json_bounds import is_excessive

MAX_ANSWER: Final = 16 << 20  # bytes of JSON; a listing of thousands of files is a few hundred KiB
_PAGES: Final = ("text/html", "application/xhtml+xml")


def bounded(response: httpx2.Response) -> None:
    """Let the client read this answer. Raises `BusyError`, `NonsenseError`.

    No answer that asks to wait is waited for in here: the client would sleep for whatever Retry-After says,
    with the token in its hands and no limit.
    """
    if response.status_code == 429 or response.status_code >= 500:
        raise BusyError(response.status_code, response.headers)
    if _is_page(response) or response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise NonsenseError
    if "/api/" in response.request.url.path and not response.is_redirect:
        response.stream = _Bounded(response.stream)
        if is_excessive(response.read()):
            raise NonsenseError


def _is_page(response: httpx2.Response) -> bool:
    """Whether it is for a browser, and so from something in between; what the Hub words is its own."""
    if response.is_redirect or "X-Error-Code" in response.headers or "X-Error-Message" in response.headers:
        return False
    return response.headers.get("Content-Type", "").partition(";")[0].strip().lower() in _PAGES


class _Bounded(httpx2.SyncByteStream):
    """The same bytes, if there are not too many. Raises `NonsenseError` while it is read."""

    def __init__(self, stream: httpx2.SyncByteStream | httpx2.AsyncByteStream) -> None:
        assert isinstance(stream, httpx2.SyncByteStream)  # noqa: S101 - the worker's client is none of asyncio
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for chunk in self._stream:
            size += len(chunk)
            if size > MAX_ANSWER:
                raise NonsenseError
            yield chunk

    def close(self) -> None:
        self._stream.close()
