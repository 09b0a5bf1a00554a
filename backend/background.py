"""Tasks that run for as long as the program does. If one of them dies, the program ends with it."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

log = structlog.get_logger()


class Background:
    """`died` is called, once or more, when a task ends that was meant to go on."""

    def __init__(self, died: Callable[[], None]) -> None:
        self._died = died
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, name: str, coroutine: Coroutine[None, None, None]) -> "asyncio.Task[None]":
        """Run it until `close`, or until whoever started it cancels it."""
        task = asyncio.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def once(self, name: str, coroutine: Coroutine[None, None, object]) -> None:
        """Run it, but not beyond `close`; its end is not the program's."""
        task: asyncio.Task[Any] = asyncio.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Cancel them all and wait for their ends."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            log.error("background.died", task=task.get_name(), exc_info=task.exception())
            self._died()
