"""What a proxy tells an engine's gate of a body: two numbers, or nothing."""

from hypothesis import given
from hypothesis import strategies as st

from hubgate.wire import cost
from hubgate.wire.cost import MOST, ONE, Cost
from tests.cases import each


@given(st.integers(1, MOST), st.integers(1, 999))
def test_what_is_written_is_read(sequences: int, per_token: int) -> None:
    """And nothing is written of one sequence whose tokens weigh as tokens do."""
    told = Cost(sequences, per_token)
    written = cost.write(told)
    assert written == "" if told == ONE else cost.read(written.encode()) == told


def test_what_is_more_than_can_be_written_is_the_most() -> None:
    """No number is too large for its reader."""
    assert cost.read(cost.write(Cost(10**9, 10**9)).encode()) == Cost(MOST, 999)


@each(
    "value",
    [b"", b"0,1", b"1,0", b"1", b"-1,1", b"1,1,1", b"1, 1", b"1e3,1", b"9" * 4000, "\u0661,\u0661".encode()],
)
def test_what_cannot_be_read_is_the_most(value: bytes) -> None:
    """Nobody gets more by writing nonsense."""
    assert cost.read(value) == Cost(MOST, 999)


def test_what_goes_without_saying() -> None:
    """One sequence, whose tokens weigh as tokens do."""
    assert Cost() == ONE == Cost(1, 1)
    assert cost.write(Cost(1, 1)) == ""


def test_the_most_that_is_written() -> None:
    """Five digits and three: so much can be said, and one more is said as that."""
    assert cost.write(Cost(99_999, 999)) == cost.write(Cost(100_000, 1_000)) == "99999,999"
