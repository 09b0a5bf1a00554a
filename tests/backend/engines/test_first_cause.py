"""What an engine that did not start died of, from what real ones print."""

import pytest

from hubgate.backend.engines.first_cause import LONGEST, FirstCause
from tests.backend.fake_engine import DYING

CORE = "(EngineCore_DP0 pid=9) "
ERROR = CORE + "ERROR 12-01 02:03:05 [core.py:936] "
TRACEBACK = "Traceback (most recent call last):"


def cause(*lines: str) -> str:
    """What is found in these lines."""
    first = FirstCause()
    for line in lines:
        first.read(line)
    return first.found()


def test_the_first_of_several_tracebacks_counts() -> None:
    """The API server's own comes last, and says only that there is another."""
    assert cause(*DYING.splitlines()) == ("ValueError: No memory for cache blocks.")


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ([], ""),
        (["", "  ", "killed"], "killed"),
        (["INFO 12-01 02:03:04 [a.py:1] loading", "Segmentation fault"], "Segmentation fault"),
        (
            ["usage: vllm serve [-h]", "vllm serve: error: what is --x", "bye"],
            "vllm serve: error: what is --x",
        ),
        ([ERROR + "Cannot reach it", "bye"], "Cannot reach it"),
        ([TRACEBACK, '  File "x", line 1', "KeyError: 'rope'"], "KeyError: 'rope'"),
        ([TRACEBACK, "  x", "torch.OutOfMemoryError: CUDA", "bye"], "torch.OutOfMemoryError: CUDA"),
        ([TRACEBACK, "  x", "KeyboardInterrupt"], "KeyboardInterrupt"),
        ([TRACEBACK, "  x", "", "--- no exception", "bye"], "bye"),
    ],
)
def test_where_there_is_less_to_go_by(lines: list[str], found: str) -> None:
    """An error that was logged without a traceback, else the last word."""
    assert cause(*lines) == found


def test_the_lines_of_one_exception_belong_together() -> None:
    """What pydantic says of a value stands in the next lines, and another process may write between them."""
    lines = [
        TRACEBACK,
        '  File "x"',
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig",
        "  Value error, The checkpoint has an unknown model type `x` [type=value_error, input_type=dict]",
        "    For further information visit https://errors.pydantic.dev",
        "  and more",
        "the end",
    ]
    told = cause(*[line for own in lines for line in (own, "(Worker pid=3) INFO 12-01 02:03:04 [w.py:1] y")])
    assert "ValidationError: 1 validation error for ModelConfig Value error, The checkpoint" in told
    assert "and more" not in told
    assert "Worker" not in told


def test_it_is_bounded_and_printable() -> None:
    """Whatever an engine prints, one line of the log holds it."""
    told = cause(TRACEBACK, "ValueError: \x1b[31m" + "x" * 10_000)
    assert len(told) == LONGEST
    assert told.isprintable()
