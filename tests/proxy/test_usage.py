"""What the relay reads of an answer while it passes: token usage, however the bytes are cut."""

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.usage import MAX_PLAIN, TAIL, Meter
from tests.fakes.answers import DONE, completed, event

PLAIN = msgspec.json.encode(completed("a/b@c", usage=(7, 5)))
LAST = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}}
STREAM = b"".join([event({"choices": [{"delta": {"content": "x" * 50}}], "usage": None})] * 30)


def usage(*chunks: bytes, streaming: bool) -> tuple[int, int] | None:
    """The usage that was found in these chunks."""
    kept = Meter(streaming=streaming)
    for chunk in chunks:
        kept.add(chunk)
    found = kept.usage()
    return None if found is None else (found.prompt, found.completion)


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    """The same bytes in pieces."""
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(places)]


@given(st.lists(st.integers(0, 10**6), max_size=8))
def test_usage_is_found_however_the_bytes_are_cut(cuts: list[int]) -> None:
    """The counts of a plain answer and of a stream do not depend on how the network cut them."""
    assert usage(*split(PLAIN, cuts), streaming=False) == (7, 5)
    assert usage(*split(STREAM + event(LAST) + DONE, cuts), streaming=True) == (7, 5)


@pytest.mark.parametrize("end", [DONE, b"", b"data: [DONE]", b"\r\n"])
def test_usage_stands_before_the_end(end: bytes) -> None:
    """The last event that has a usage is found with or without `[DONE]`."""
    assert usage(STREAM, event(LAST), end, streaming=True) == (7, 5)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"usage":null}', b'{"usage":{"prompt_tokens":"x"}}', b"\xff"]
)
def test_answers_without_usage(body: bytes) -> None:
    """What has no counts, or none that can be read, is not counted."""
    assert usage(body, streaming=False) is None
    assert usage(STREAM, b"data: " + body + b"\n\n", DONE, streaming=True) is None


def test_vast_answers_are_not_kept() -> None:
    """An answer beyond the limit is passed on and not counted; a stream of any length is."""
    assert usage(b"x" * MAX_PLAIN, PLAIN, streaming=False) is None
    assert usage(*[STREAM] * 300, event(LAST), DONE, streaming=True) == (7, 5)


def test_little_is_kept_of_a_stream() -> None:
    """A stream costs a few kilobytes, however long it is."""
    kept = Meter(streaming=True)
    for _ in range(300):
        kept.add(STREAM)
    assert kept.held <= 2 * TAIL + len(STREAM)
