"""The head of an engine's answer, as the relay reads it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from hubgate.proxy.upstream import header_filter

Framing = Literal["length", "chunks", "unclear"]

_SECONDS: Final = re.compile(r"[0-9]{1,5}(\.[0-9]{1,6})?", re.ASCII)
_WHOLE: Final = re.compile(r"[0-9]{1,5}", re.ASCII)


@dataclass(init=False)
class ResponseHead:
    """One object serves all answers of a connection that repeat it, but for their length."""

    status: int
    framing: Framing  # how the end of the body is told; and its bytes are plain, or it is unclear
    streaming: bool
    lines: str  # the headers that the caller gets, as lines
    waited: float  # seconds at the engine's gate, before it began
    retry_after: int | None  # seconds

    def __init__(self, status: int, fields: Sequence[tuple[str, str]]) -> None:
        """`fields` are those that matter, names in lower case."""
        self.status = status
        self.framing = _framing(fields)
        named = dict(fields)
        self.streaming = named.get("content-type", "").startswith("text/event-stream")
        self.lines = header_filter.to_caller(fields, streaming=self.streaming)
        waited, retry = named.get("x-hubgate-waited"), named.get("retry-after")
        self.waited = float(waited) if waited is not None and _SECONDS.fullmatch(waited) else 0.0
        self.retry_after = int(retry) if retry is not None and _WHOLE.fullmatch(retry) else None


def _framing(fields: Sequence[tuple[str, str]]) -> Framing:
    chunked = lengths = 0
    for name, value in fields:
        if name == "content-length":
            lengths += 1
        elif name == "transfer-encoding":
            chunked += 1 if value.lower() == "chunked" else 2
        elif name == "content-encoding" and value.lower() != "identity":
            return "unclear"
    if chunked == 1:
        return "chunks"
    return "length" if not chunked and lengths == 1 else "unclear"
