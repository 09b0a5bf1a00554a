"""The twelve faults: how each is brought about, how it is ended, and what proves that it happened."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from hubgate.demo.git import Blob
from tests.fakes.running_proxy import eventually
from tests.faults.caller import Ask, Temperature, left, plain, restarted, streamed
from tests.faults.stack import Stack

Fired = Callable[[], Awaitable[bool]]
Inject = Callable[[Stack, str], AbstractAsyncContextManager[Fired]]

HOUR = 3600.0  # seconds
WEIGHTS = ("model.safetensors", "adapter_model.safetensors")


@dataclass(frozen=True, slots=True)
class Fault:
    """`inject` gets the model that is about to be asked for. `colder` is what meets it if that does not."""

    inject: Inject
    ask: Ask = plain
    colder: Temperature = "adapter cold"
    engines: Mapping[str, Any] = field(default_factory=dict)


def outage(mode: str, *origins: str, half: bool = False, **how: Any) -> Inject:
    """The Hub or its files fail; with `half`, in the middle of the model's weights."""

    @asynccontextmanager
    async def inject(stack: Stack, model: str) -> AsyncIterator[Fired]:
        state = stack.hub.state
        before = state.outages.met
        cut = {"after_bytes": len(weights(stack, model).content) // 2} if half else {}
        for origin in origins:
            state.set_down(mode, origin=origin, **how, **cut)

        async def fired() -> bool:
            return state.outages.met > before

        try:
            yield fired
        finally:
            state.set_down(None)

    return inject


@asynccontextmanager
async def tampered(stack: Stack, _: str) -> AsyncIterator[Fired]:
    """All weights differ in one bit from what the Hub lists; sizes are right."""
    blobs = [weights(stack, model) for model in stack.hub.state.repos if has_weights(stack, model)]
    good = [blob.content for blob in blobs]
    served = len(stack.hub.log.paths("files"))
    for blob in blobs:
        _set(blob, blob.content[:-1] + bytes([blob.content[-1] ^ 1]))

    async def fired() -> bool:
        return len(stack.hub.log.paths("files")) > served

    try:
        yield fired
    finally:
        for blob, content in zip(blobs, good, strict=True):
            _set(blob, content)


def switched(name: str) -> Inject:
    """A fault of engines, or of the download workers' disk."""

    @asynccontextmanager
    async def inject(stack: Stack, _: str) -> AsyncIterator[Fired]:
        before = stack.switches.fired(name)

        async def fired() -> bool:
            return stack.switches.fired(name) > before

        with stack.switches.on(name):
            yield fired

    return inject


@asynccontextmanager
async def new_boot(stack: Stack, _: str) -> AsyncIterator[Fired]:
    """The caller's part brings the restart about; afterwards the backend is another boot."""
    before = (await stack.backend.hello()).boot

    async def fired() -> bool:
        return (await stack.backend.hello()).boot != before

    yield fired


@asynccontextmanager
async def wrong_clock(stack: Stack, _: str) -> AsyncIterator[Fired]:
    """The proxy's wall clock jumps ahead of all others, and back."""
    stack.clock.ahead = HOUR

    async def fired() -> bool:
        await stack.until_up(up=False)  # it cannot even say hello
        return True

    try:
        yield fired
    finally:
        stack.clock.ahead = 0.0
        await stack.until_up()


@asynccontextmanager
async def departure(stack: Stack, _: str) -> AsyncIterator[Fired]:
    """The caller's part brings it about; what worked for them is told, the engine included."""

    def under_way() -> int:
        return stack.switches.fired("wait") - stack.switches.fired("left")

    before = under_way()  # what an engine that was killed had begun never ends

    async def ended() -> bool:
        return under_way() == before

    async def fired() -> bool:
        await eventually(ended)
        return len(stack.audited(499)) == 1

    yield fired


FAULTS: Mapping[str, Fault] = {
    "hub down": Fault(outage("disconnect", "hub", "files")),
    "hub 429": Fault(outage("429", "hub", "files")),
    "slow": Fault(outage("slow", "hub", "files", seconds=0.1)),
    "cut at half": Fault(outage("cut", "files", half=True, times=1)),
    "wrong sha256": Fault(tampered),
    "disk full": Fault(switched("disk-full")),
    "engine crash at start": Fault(switched("crash-at-start"), colder="base cold"),
    "hang": Fault(switched("hang"), engines={"start_timeout": 4, "hang_timeout": 1}),
    "crash in stream": Fault(switched("crash-in-stream"), streamed),
    "control API restart": Fault(new_boot, restarted),
    "clock jump": Fault(wrong_clock),
    "caller leaves": Fault(departure, left),
}


def has_weights(stack: Stack, model: str) -> bool:
    """Whether the repo has weights in a format that is downloaded."""
    commit = stack.hub.state.repos[model].find("main")
    return commit is not None and any(name in commit.files for name in WEIGHTS)


def weights(stack: Stack, model: str) -> Blob:
    """The one file of a repo that the Hub keeps elsewhere."""
    commit = stack.hub.state.repos[model].find("main")
    assert commit is not None
    return next(commit.files[name] for name in WEIGHTS if name in commit.files)


def _set(blob: Blob, content: bytes) -> None:
    object.__setattr__(blob, "content", content)  # frozen: its hashes stay those of the good content
