"""The fake engine, and faults that can be switched on while it runs: see `Switches`.

- crash-at-start: it ends before it listens;
- hang: the whole process stands still, as with a stuck driver; at its start, or when it is next needed;
- crash-in-stream: it dies after the first event of an answer;
- wait: an answer is not begun until the switch is off. `left` fires when the caller goes meanwhile.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path

from aiohttp import web

from tests.backend.fake_engine import FakeEngine, main
from tests.faults.switches import Switches

OPTION = "--faults="
LOOK = 0.01  # seconds between two looks at a switch


class FaultyEngine(FakeEngine):
    """Fails where it matters: on a caller's chat, and when it is given an adapter."""

    def __init__(self, switches: set[str]) -> None:
        super().__init__(switches)
        self.faults = _faults(sys.argv)

    async def control(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/hubgate/adapters":
            _hang(self.faults)
        return await super().control(request)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """The supervisor asks for its own token elsewhere, and always gets it."""
        if request.path != "/v1/chat/completions":
            return await super().answer(request)
        _hang(self.faults)
        await self._wait(request)
        body = await request.json()
        if not body.get("stream"):
            return web.json_response({"model": body["model"]})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b'data: {"model":"%s"}\n\n' % body["model"].encode())
        if self.faults.is_on("crash-in-stream"):
            self.faults.fire("crash-in-stream")
            os._exit(9)
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _wait(self, request: web.Request) -> None:
        if not self.faults.is_on("wait"):
            return
        self.faults.fire("wait")
        while self.faults.is_on("wait"):
            await asyncio.sleep(LOOK)
            if request.transport is None:
                self.faults.fire("left")
                raise ConnectionResetError


def _hang(faults: Switches) -> None:
    if faults.is_on("hang"):
        faults.fire("hang")
        os.kill(os.getpid(), signal.SIGSTOP)


def _faults(argv: list[str]) -> Switches:
    folder = next(argument for argument in argv if argument.startswith(OPTION))
    return Switches(Path(folder.removeprefix(OPTION)))


if __name__ == "__main__":
    told = _faults(sys.argv)
    if told.is_on("crash-at-start"):
        told.fire("crash-at-start")
        sys.exit(3)
    _hang(told)
    main(sys.argv, FaultyEngine)
