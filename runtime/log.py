"""The operator's log: one JSON object (or one readable line) an event, on standard error."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from traceback import extract_tb
from typing import Literal

import structlog

Level = Literal["debug", "info", "warning", "error"]


def configure(level: Level, form: Literal["json", "console"]) -> None:
    """Set structlog up for this process. Libraries log through it from `warning` on.

    Nothing filters secrets out of lines: they cannot get in, since `Secret` formats as `***`, and of an
    exception the text is left out.
    """
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if form == "json" else structlog.dev.ConsoleRenderer(colors=False)
    )
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _tell_faults,
    ]
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,  # a reload may change the level; few lines are logged
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(processors=[_drop_internals, renderer], foreign_pre_chain=shared)
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


def warn_of_stale_code(sources: Sequence[str]) -> None:
    """Say that these sources were changed after they were compiled, if any were."""
    if sources:
        hint = "`make compiled`; or INTERPRETED=1 runs the sources"
        structlog.get_logger().warning("compiled code is older than its sources", sources=sources, hint=hint)


def _drop_internals(
    _: structlog.typing.WrappedLogger, __: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    return structlog.stdlib.ProcessorFormatter.remove_processors_meta(None, "", event)


def _tell_faults(
    _: structlog.typing.WrappedLogger, __: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Of an exception that nobody foresaw: its type, and the lines that it came through.

    Never its text: that may quote what somebody sent, a credential among it.
    """
    found = event.pop("exc_info", None)
    error = sys.exc_info()[1] if found is True else found[1] if isinstance(found, tuple) else found
    if error is not None:
        frames = extract_tb(error.__traceback__)
        event["exception"] = type(error).__name__
        event["at"] = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames]
    return event
