"""Which lines of the proxy's request path run, in their order: two refusals that must not be told apart."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from hubgate import proxy

HOME = Path(proxy.__file__).parent
# What looks around several times a second, whoever asks for what; what it calls does not count either.
PERIODIC = ("audit/long_requests.py", "blocks/")
# What knows of no repo: hellos to the backends, connections that open and close when they will, counters,
# and the audit's writer, which writes out each new second once.
BACKGROUND = ("upstream/", "http/", "net/", "metrics/", "audit/writer.py", *PERIODIC)


@contextmanager
def traced() -> Iterator[list[str]]:
    """Collect `file:line` of the proxy's own code, for all tasks of this thread."""
    ran: list[str] = []

    def local(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            ran.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}")
        return local

    def enter(frame: FrameType, _: str, __: Any) -> Any:
        name, caller = _name(frame), _name(frame.f_back)
        if name is None or name.startswith(BACKGROUND) or (caller or "").startswith(PERIODIC):
            return None
        return local

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        yield ran
    finally:
        sys.settrace(before)


def _name(frame: FrameType | None) -> str | None:
    """The file of a frame below proxy/, or `None`."""
    path = Path(frame.f_code.co_filename) if frame is not None else HOME.parent
    return str(path.relative_to(HOME)) if path.is_relative_to(HOME) else None
