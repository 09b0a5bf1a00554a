"""What a caller of the matrix does, and what they are told."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Literal

import msgspec

from tests.fakes.engine import PATIENCE
from tests.fakes.raw import RawAnswer, RawClient
from tests.fakes.running_proxy import eventually
from tests.faults.stack import Stack

Temperature = Literal["base cold", "adapter cold", "all warm"]

LEFT = 499


class Outcome(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a request ended; `expected.yaml` says what each field means."""

    status: int
    code: str
    retry: bool = False
    event: bool = False
    backoff: bool = False

    def at_once(self) -> "Outcome":
        """The same, with nobody kept back afterwards."""
        return msgspec.structs.replace(self, backoff=False)

    def __str__(self) -> str:
        marks = [name for name in ("retry", "event", "backoff") if getattr(self, name)]
        return " ".join([str(self.status), self.code, *marks])


Ask = Callable[[Stack, str, Temperature], Awaitable[Outcome]]


async def plain(stack: Stack, model: str, _: Temperature) -> Outcome:
    """Wait for the answer."""
    return told(await stack.post({"model": model}), stack.backend.sha(model))


async def streamed(stack: Stack, model: str, _: Temperature) -> Outcome:
    """Wait for the end of the stream."""
    return told(await stack.post({"model": model, "stream": True}), stack.backend.sha(model))


async def restarted(stack: Stack, model: str, temperature: Temperature) -> Outcome:
    """Wait for the answer, while the backend ends and starts again."""
    async with held(stack, temperature) as reached:
        asking = asyncio.create_task(plain(stack, model, temperature))
        await reached()
        await stack.restart_backend()
        outcome = await asking
    await stack.until_up()
    return outcome


async def left(stack: Stack, model: str, temperature: Temperature) -> Outcome:
    """Hang up in the middle; the audit tells how that was understood."""
    async with held(stack, temperature) as reached, RawClient.connect(stack.proxy.port) as client:
        await client.send(stack.sent({"model": model}))
        await reached()
        client.leave()

        async def understood() -> bool:
            return bool(stack.audited(LEFT))

        await eventually(understood)
    (reason,) = stack.audited(LEFT)
    return Outcome(status=LEFT, code=reason)


@asynccontextmanager
async def held(stack: Stack, temperature: Temperature) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Requests come as far as the download, or with a warm model the engine; wait until one is there."""
    if temperature == "all warm":
        before = stack.switches.fired("wait")

        async def there() -> bool:
            return stack.switches.fired("wait") > before

        with stack.switches.on("wait"):
            yield lambda: eventually(there)
        return
    outages = stack.hub.state.outages
    stack.hub.state.set_down("hang", origin="files")
    try:
        yield lambda: asyncio.wait_for(outages.wait_held(1), PATIENCE)
    finally:
        stack.hub.state.set_down(None)


def told(answer: RawAnswer, model: str) -> Outcome:
    """Read an answer as a caller would; one that is cut without a word is no outcome."""
    retry = answer.header("Retry-After") is not None
    if answer.status != 200:
        assert answer.complete
        assert retry == (answer.header("x-should-retry") != "false")
        return Outcome(status=answer.status, code=answer.code, retry=retry)
    if (answer.header("Content-Type") or "").startswith("application/json"):
        assert answer.complete
        assert answer.json() == {"model": model}
        return Outcome(status=200, code="ok")
    *before, last = [line for line in answer.body.splitlines() if line.startswith(b"data: ")]
    assert all(model.encode() in line for line in before)
    if last == b"data: [DONE]":
        assert answer.complete
        assert before
        return Outcome(status=200, code="ok")
    assert not answer.complete
    return Outcome(status=200, code=msgspec.json.decode(last[6:])["error"]["code"], event=True)
