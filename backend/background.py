"""Tasks that run for as long as the program does. If one of them dies, the program ends with it."""

import asyncio
from collections.abc import Callable, Coroutine

import structlog

log = structlog.get_logger()


class Background:
    """`died` is called, once or more, when a task ends that was meant to go on."""

    def __init__(self, died: Callable[[], None]) -> None:
        self._died = died
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, name: str, coroutine: Coroutine[None, None, None]) -> None:
        """Run it until `close`."""
        task = asyncio.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

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
