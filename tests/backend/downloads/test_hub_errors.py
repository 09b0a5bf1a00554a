"""Every way in which a download fails becomes one value, and none quotes what it was about."""

import errno

import httpx2

from hubgate.backend.downloads.hub_errors import (
    MAX_PAUSE,
    ROOM,
    BusyError,
    MismatchError,
    NonsenseError,
    failure,
    pause,
)
from tests.cases import each

NOW = 1_790_000_000.0  # Mon, 21 Sep 2026 14:13:20 GMT


@each(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "0"}, 1),
        ({"Retry-After": "9" * 12}, MAX_PAUSE),
        ({"Retry-After": "soon"}, None),
    ],
)
def test_the_wait_that_an_answer_asks_for(headers: dict[str, str], seconds: int | None) -> None:
    """What the headers say, as far as it is believed."""
    assert pause(headers, NOW) == seconds


@each(
    ("error", "code"),
    [
        (BusyError(429, {}), "hub_unavailable"),
        (BusyError(503, {}), "hub_unavailable"),
        (MismatchError(), "error"),
        (NonsenseError(), "hub_unavailable"),
        (httpx2.TooManyRedirects("secret"), "hub_unavailable"),
        (httpx2.DecodingError("secret"), "hub_unavailable"),
        (OSError(errno.ENOSPC, "secret"), "store_full"),
        (OSError(errno.EDQUOT, "secret"), "store_full"),
        (OSError(errno.EFBIG, "secret"), "rejected"),
        (httpx2.ReadTimeout("secret"), "hub_unavailable"),
        (ConnectionResetError("secret"), "hub_unavailable"),
        (ValueError("secret"), "error"),
    ],
)
def test_an_error_becomes_a_value(error: Exception, code: str) -> None:
    """By its cause, however deep the client wrapped it, and without its text."""
    wrapped = RuntimeError("secret")
    wrapped.__cause__ = error
    for seen in (error, wrapped):
        said = failure(seen)
        assert said.code == code
        assert "secret" not in said.message


def test_a_full_disk_may_have_room_again() -> None:
    """The callers are told to come again, as with a store whose quota is used up."""
    assert failure(OSError(errno.ENOSPC, "secret")).retry_after == ROOM
