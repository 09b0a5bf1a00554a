"""What a recorded stream holds, and that a short one is noticed."""

import pytest

from bench import stream
from bench.client import LoadError, complete
from bench.messages import ANSWER, STREAM_END, STREAM_HEAD, event

SENT = 1_000_000_000
WHOLE = STREAM_HEAD + event(SENT) + event(SENT + 20_000_000) + STREAM_END


def _cut(data: bytes, size: int) -> list[tuple[int, bytes]]:
    """Reads of this size, a millisecond apart, beginning at `SENT`."""
    pieces = [data[index : index + size] for index in range(0, len(data), size)]
    return [(SENT + index * 1_000_000, piece) for index, piece in enumerate(pieces)]


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
def test_however_the_reads_cut_it(size: int) -> None:
    """Events are counted once each, wherever a read or a chunk ends."""
    reads = _cut(WHOLE, size)
    stream.check(reads, 2)
    assert len(stream.arrivals(reads)) == 2
    assert len(stream.delays(reads)) == 2


def test_a_proxy_may_cut_chunks_anew() -> None:
    """An event that a proxy split over two chunks is one event."""
    body = b"data: {" + b"x" * 20 + b"}\n\n" + stream.DONE + b"\n\n"
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (body[:4], body[4:30], body[30:]))
    stream.check([(0, STREAM_HEAD + chunks + b"0\r\n\r\n")], 1)


def test_a_delay_is_from_the_upstreams_write_to_the_read() -> None:
    """The time that stands in an event is taken from the time of the read that completed it."""
    reads = [(SENT + 5_000_000, STREAM_HEAD + event(SENT)), (SENT + 30_000_000, event(SENT + 20_000_000))]
    assert stream.delays(reads) == [pytest.approx(0.005), pytest.approx(0.010)]


@pytest.mark.parametrize(
    ("data", "events"),
    [
        (WHOLE, 3),  # one event is missing
        (WHOLE, 1),  # one came twice
        (WHOLE[: -len(b"0\r\n\r\n")], 2),  # the last chunk is missing
        (STREAM_HEAD + event(SENT) + event(SENT) + b"0\r\n\r\n", 2),  # [DONE] is missing
        (ANSWER, 0),  # no stream at all
    ],
)
def test_a_stream_that_is_not_whole_is_an_error(data: bytes, events: int) -> None:
    """A figure is never taken from a stream that lost, doubled or cut something."""
    with pytest.raises(LoadError):
        stream.check([(0, data)], events)


def test_an_answer_is_whole_by_its_length_or_its_last_chunk() -> None:
    """No prefix of an answer passes for the answer."""
    for answer in (ANSWER, WHOLE):
        assert complete(answer)
        assert not any(complete(answer[:end]) for end in range(len(answer)))
