"""How long an answer asks its reader to wait: both forms of Retry-After, and the Hub's own RateLimit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubgate.wire.retry_after import seconds

NOW = 1_790_000_000.0  # Mon, 21 Sep 2026 14:13:20 GMT


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": " 7 "}, 7),
        ({"Retry-After": "007"}, 7),
        ({"Retry-After": "0"}, 0),
        ({"Retry-After": "9" * 30}, 9_999_999_999),
        ({"Retry-After": "0" * 30 + "7"}, 7),
        ({"Retry-After": "Mon, 21 Sep 2026 14:14:20 GMT"}, 60),
        ({"Retry-After": "Monday, 21-Sep-26 14:14:20 GMT"}, 60),  # RFC 850's form, RFC 9110 section 5.6.7
        ({"Retry-After": "Mon Sep 21 14:14:20 2026"}, 60),  # asctime's
        ({"Retry-After": "Mon, 21 Sep 2026 16:14:20 +0200"}, 60),
        ({"Retry-After": "Mon, 21 Sep 2026 14:14:20 -0000"}, 60),
        ({"Retry-After": "Mon, 21 Sep 2020 14:14:20 GMT"}, None),
        ({"Retry-After": "Mon, 21 Sep 2026 14:13:20 GMT"}, None),  # now
        ({"Retry-After": "Mon, 21 Sep 2026 14:13:21 GMT"}, 1),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "!7"}, None),
        ({"Retry-After": "-7"}, None),
        ({"Retry-After": "7.5"}, None),
        ({"Retry-After": "²"}, None),
        ({"Retry-After": "Mon, 99 Sep 2026 14:14:20 GMT"}, None),
        ({"RateLimit": '"api";r=0;t=55'}, 55),
        ({"RateLimit": '"api"; r=0; t=55'}, 55),
        ({"RateLimit": "t=5"}, 5),
        ({"RateLimit": "t=0"}, 0),
        ({"RateLimit": "t=" + "9" * 30}, 9_999_999_999),
        ({"RateLimit": "t="}, None),
        ({"RateLimit": "t=!5"}, None),
        ({"RateLimit": "!t=5"}, None),
        ({"RateLimit": '"at=7";r=0'}, None),
        ({"RateLimit": "nonsense"}, None),
        ({"Retry-After": "3", "RateLimit": '"api";r=0;t=55'}, 3),
        ({"Retry-After": "soon", "RateLimit": '"api";r=0;t=55'}, 55),
        ({"Retry-After": "Mon, 21 Sep 2020 14:14:20 GMT", "RateLimit": "t=9"}, 9),
        ({"Retry-After": "0" * 30_000 + "x"}, None),
        ({"RateLimit": "t=" + "0" * 30_000 + "x"}, None),
        ({}, None),
    ],
)
def test_what_the_headers_say(headers: dict[str, str], expected: int | None) -> None:
    """Seconds or a date, and what cannot be read says nothing."""
    assert seconds(headers, NOW) == expected


@given(st.text(max_size=60), st.text(max_size=60))
def test_nothing_breaks_it(retry_after: str, rate_limit: str) -> None:
    """Whatever a Hub writes, the answer is no negative number, or none."""
    found = seconds({"Retry-After": retry_after, "RateLimit": rate_limit}, NOW)
    assert found is None or found >= 0
