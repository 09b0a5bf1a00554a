"""The queue of each engine, as hello and metrics tell it: as of a moment ago, or not at all."""

import asyncio
from types import SimpleNamespace
from typing import Any

from hubgate.backend.engines import queues
from hubgate.backend.engines.client import SilentEngineError
from hubgate.backend.plugin.traffic import Status
from hubgate.wire.control_api import EngineQueue

QUEUE = EngineQueue(seats=8, taken=8, waiting=3, longest_wait=1.5)


class Client:
    """Answers, fails, or hangs."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.asked = 0
        self.thrice = asyncio.Event()

    async def status(self) -> Status:
        self.asked += 1
        if self.asked == 3:
            self.thrice.set()
        if self.how == "fails":
            raise SilentEngineError
        if self.how == "hangs":
            await asyncio.Event().wait()
        return Status(draining=False, in_flight=0, models={}, queue=QUEUE)


def engine(how: str, state: str = "ready", queue: EngineQueue | None = None) -> Any:
    return SimpleNamespace(client=Client(how), state=state, queue=queue)


async def test_each_engine_that_answers_has_its_queue(monkeypatch: Any) -> None:
    """One that fails or hangs has none, and keeps nobody else's back; one that is not up is not asked."""
    monkeypatch.setattr(queues, "PAUSE", 0.0)
    monkeypatch.setattr(queues, "PATIENCE", 0.01)
    good, bad, hung = engine("answers"), engine("fails", queue=QUEUE), engine("hangs", queue=QUEUE)
    asleep = engine("answers", "asleep", queue=QUEUE)
    watching = asyncio.create_task(queues.watch_queues(lambda: [good, bad, hung, asleep]))
    await asyncio.wait_for(good.client.thrice.wait(), 30)
    watching.cancel()
    assert good.queue == QUEUE
    assert (bad.queue, hung.queue, asleep.queue) == (None, None, None)
    assert asleep.client.asked == 0
