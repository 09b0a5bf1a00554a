"""What an engine that did not start died of, out of all that it printed.

vLLM's processes each print a traceback, the one that others die of first, and that of the API server last: by
then the first is further back than any tail of the log.
"""

import re
from typing import Final

LONGEST: Final = 500  # characters that are told
MORE: Final = 2  # lines that may belong to the exception's own, as with pydantic's

# `(EngineCore_DP0 pid=7) ERROR 12-01 02:03:04 [core.py:900] text`: vllm/logger.py, `_FORMAT`, and
# vllm/logging_utils/formatter.py. What begins a line tells the processes apart.
_LINE: Final = re.compile(
    r"(?P<process>\([^()]{1,80}\) )?"
    r"(?:(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)? \[[^\]]{1,120}\] ?)?"
    r"(?P<text>.*)",
    re.DOTALL,
)
_TRACEBACK: Final = "Traceback (most recent call last):"
_EXCEPTION: Final = re.compile(r"[A-Za-z_][\w.]*(?::\s.*)?", re.DOTALL)
_USAGE: Final = re.compile(r"[\w. -]{1,80}: error: .*", re.DOTALL)  # argparse


class FirstCause:
    """Reads the lines of an engine's log while it starts."""

    def __init__(self) -> None:
        self._raised: list[str] = []  # the first exception, and what belongs to it
        self._by: str | None = None  # the process that raised it, while its lines may go on
        self._complaint = ""  # the first error that is none
        self._last = ""
        self._unwinding: set[str] = set()  # processes in the middle of a traceback

    def read(self, line: str) -> None:
        """Take the next line."""
        found = _LINE.fullmatch(line)
        if found is None:
            return
        process, level, text = found["process"] or "", found["level"] or "", found["text"].rstrip()
        if text:
            self._last = text
        if self._raised:
            self._go_on(process, text)
        elif text.endswith(_TRACEBACK):
            self._unwinding.add(process)
        elif process in self._unwinding:
            if text and not text[0].isspace():
                self._unwinding.discard(process)
                if _EXCEPTION.fullmatch(text):
                    self._raised, self._by = [text], process
        elif not self._complaint and (level in {"ERROR", "CRITICAL"} or _USAGE.fullmatch(text)):
            self._complaint = text

    def found(self) -> str:
        """The first exception; or else the first error that was logged, or the last line of all."""
        told = " ".join(line.strip() for line in self._raised) or self._complaint or self._last
        return "".join(c if c.isprintable() else " " for c in told)[:LONGEST]

    def _go_on(self, process: str, text: str) -> None:
        """The lines of an exception after the first one are indented, but for a text's own."""
        if process != self._by:
            return
        if text[:1].isspace() and len(self._raised) <= MORE:
            self._raised.append(text)
        else:
            self._by = None
