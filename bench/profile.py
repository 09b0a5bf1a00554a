"""Where Hubgate's time goes: py-spy on the proxy under load; stacks for a flame graph, and a table."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Literal

from bench.contenders import CONTENDERS, DIRECT, PEERS, Place
from bench.load import Order, generate
from bench.process import running

Kind = Literal["json", "stream"]
FOLDER: Final = Path(__file__).with_name("profiles")
SECONDS: Final = 10
RATE: Final = 400  # samples a second


@dataclass(frozen=True, slots=True)
class Spot:
    """A function and its share of all samples: on top of the stack, and anywhere in it."""

    name: str
    own: float
    total: float


def spots(stacks: Iterable[str]) -> list[Spot]:
    """The functions of collapsed stacks (`outer;inner count` in each line), those with most time first."""
    own: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for line in stacks:
        frames, _, count = line.rpartition(" ")
        if not frames:
            continue
        names = frames.split(";")
        own[names[-1]] += int(count)
        total.update(dict.fromkeys(names, int(count)))
    every = own.total() or 1
    return [Spot(name, own[name] / every, total[name] / every) for name, _ in own.most_common()]


async def record(kind: Kind, tell: Callable[[str], None]) -> Path:
    """Profile the proxy under load; gives the file of collapsed stacks. Raises `StartError`, `LoadError`."""
    tell(f"{SECONDS} seconds of {kind}")
    FOLDER.mkdir(exist_ok=True)
    target = FOLDER / f"hubgate-{kind}.collapsed"
    hubgate = next(one for one in CONTENDERS if one.name == "hubgate")
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="hubgate-profile-")))
        upstream = await stack.enter_async_context(DIRECT.start(Place(folder, 0)))
        proxy = await stack.enter_async_context(hubgate.start(Place(folder, upstream.port)))
        order = Order(kind="call", port=proxy.port, pids=(), tokens=(proxy.token,), connections=32)
        order.seconds = SECONDS + 1.0
        if kind == "stream":
            order.kind, order.connections, order.events = "stream", 64, (SECONDS + 1) * 50
        load = asyncio.create_task(generate(order))
        await asyncio.sleep(1)  # past the warm-up, and past the requests that begin the streams
        command = (str(PEERS / "py-spy"), "record", "--pid", str(proxy.child.process.pid), "--function")
        options = (
            "--duration",
            str(SECONDS),
            "--rate",
            str(RATE),
            "--format",
            "raw",
            "--output",
            str(target),
        )
        async with running("py-spy", *command, *options, folder=folder) as spy:
            await load
            if await spy.process.wait():
                raise spy.died()
    return target
