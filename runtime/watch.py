"""Says when a file that may change cannot be read."""

import asyncio
from collections.abc import Mapping
from typing import Never, Protocol

import structlog

EVERY = 30.0  # seconds

log = structlog.get_logger("files")


class Watched(Protocol):
    """What is read from a file, or from some, and read again when they change."""

    fault: str | None  # why they cannot be read; what was last good counts meanwhile

    def current(self) -> object:
        """Look at them, and take over what is new."""


async def watch(files: Mapping[str, Watched]) -> Never:
    """Look at each, and log what is wrong with it, by its name in the settings."""
    while True:
        for name, file in files.items():
            file.current()
            if file.fault is not None:
                log.error("file.unreadable", file=name, fault=file.fault)
        await asyncio.sleep(EVERY)
