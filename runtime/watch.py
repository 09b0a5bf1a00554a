"""Says when a file that may change cannot be read."""

import asyncio
from collections.abc import Mapping
from typing import Any, Never

import structlog

from wire.keyfile import KeyFile

EVERY = 30.0  # seconds

log = structlog.get_logger("files")


async def watch(files: Mapping[str, KeyFile[Any]]) -> Never:
    """Log the fault of each file, by its name in the settings; its last good version counts meanwhile."""
    while True:
        for name, file in files.items():
            file.current()
            if file.fault is not None:
                log.error("file.unreadable", file=name, fault=file.fault)
        await asyncio.sleep(EVERY)
