"""Which lines of the proxy's request path run, in their order: two refusals that must not be told apart."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from hubgate import proxy

HOME = Path(proxy.__file__).parent
# What knows of no repo: hellos to the backends, connections that open and close when they will, counters,
# the audit's writer, which writes out each new second once, and what looks around several times a second.
BACKGROUND = (
    "upstream/",
    "http/",
    "net/",
    "metrics/",
    "audit/writer.py",
    "audit/long_requests.py",
    "blocks/",
)


@contextmanager
def traced() -> Iterator[list[str]]:
    """Collect `file:line` of the proxy's own code, for all tasks of this thread."""
    ran: list[str] = []

    def local(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            ran.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}")
        return local

    def enter(frame: FrameType, _: str, __: Any) -> Any:
        path = Path(frame.f_code.co_filename)
        if not path.is_relative_to(HOME) or str(path.relative_to(HOME)).startswith(BACKGROUND):
            return None
        return local

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        yield ran
    finally:
        sys.settrace(before)
