"""What a failed download means, by what the Hub answered. Pure; used inside the download worker."""

import errno
import time
from collections.abc import Iterator, Mapping

from hubgate.backend.downloads.messages import Failure
from hubgate.wire import retry_after

PAUSE = 10  # seconds to wait when a 429 does not say how long
ROOM = 60  # seconds until other models or the operator may have made room on a full disk
MAX_PAUSE = 3600  # seconds; a longer Retry-After is not believed


class MismatchError(Exception):
    """A file is not what the Hub's listing says."""


class BusyError(Exception):
    """The Hub, or where it keeps its files, asks to wait or has a failure."""

    def __init__(self, status: int, headers: Mapping[str, str]) -> None:
        super().__init__(status)
        self.status = status
        self.headers = headers


class NonsenseError(Exception):
    """What came is no answer of the Hub's: a page for browsers, or nothing that its client can read."""


def failure(error: BaseException) -> Failure:
    """Sort an error by what the Hub answered, not by the client's exception class."""
    for cause in _chain(error):
        if isinstance(cause, MismatchError):
            return Failure(code="error", message="a file differs from what the Hub lists")
        if isinstance(cause, BusyError):
            return _by_status(cause.status, cause.headers)
        if isinstance(cause, NonsenseError):
            return Failure(code="hub_unavailable", message="something else answers for the Hub")
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if isinstance(status, int):
            return _by_status(status, getattr(cause.response, "headers", {}))  # type: ignore[attr-defined]
        number = cause.errno if isinstance(cause, OSError) else None
        if number in (errno.ENOSPC, errno.EDQUOT):
            return Failure(code="store_full", message="the disk is full", retry_after=ROOM)
        if number == errno.EFBIG:
            return Failure(code="rejected", message="a file is larger than the Hub said")
        if _is_transport(cause):
            return Failure(code="hub_unavailable", message="the Hub cannot be reached")
    return Failure(code="error", message=f"the download failed ({type(error).__name__})")


def _by_status(status: int, headers: Mapping[str, str]) -> Failure:
    if status in (401, 403):
        return Failure(code="denied", message="the Hub refuses this token")
    if status == 404:
        return Failure(code="not_found", message="the Hub knows no such model, revision or file")
    if status == 429:
        wait = pause(headers, time.time()) or PAUSE
        return Failure(code="hub_unavailable", message="the Hub asks to wait", retry_after=wait)
    if status >= 500:
        asked = pause(headers, time.time())
        return Failure(code="hub_unavailable", message="the Hub has a failure", retry_after=asked)
    return Failure(code="error", message=f"the Hub answered {status}")


def pause(headers: Mapping[str, str], now: float) -> int | None:
    """Seconds that an answer asks to wait, as far as that is believed; `None` if it does not say."""
    seconds = retry_after.seconds(headers, now)
    return None if seconds is None else min(max(seconds, 1), MAX_PAUSE)


def _is_transport(cause: BaseException) -> bool:
    import httpx2  # noqa: PLC0415  # what huggingface_hub speaks HTTP with

    # Too many redirects and what cannot be unpacked are among them: none is an answer.
    return isinstance(cause, (httpx2.RequestError, ConnectionError, TimeoutError))


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    for _ in range(10):
        if seen is None:
            return
        yield seen
        seen = seen.__cause__ or seen.__context__
