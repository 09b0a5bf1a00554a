"""What Hubgate adds to a real vLLM on the CPU: the demo as `make run` starts it, asked with and without it.

Without it means at the engine's own port, which needs a grant: we sign one with the demo proxy's key.
"""

import asyncio
import statistics
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import aiohttp

from bench.contenders import ROOT
from bench.load import Order, Seen, generate
from bench.messages import LOCAL, MODEL
from bench.process import Child, StartError, free_port, running
from bench.surroundings import ALICE
from hubgate.demo.configs import Layout
from hubgate.proxy.upstream.control_client import ControlClient
from hubgate.proxy.upstream.grant_signer import GrantSigner
from hubgate.runtime import child_python
from hubgate.wire import keys
from hubgate.wire.control_api import GRANT_HEADER, EngineInfo

PATIENCE: Final = 420.0  # seconds until vLLM has to answer
SECONDS: Final = 5.0  # of each round on each side
_NO_LIMITS: Final = "proxy: {limits: {requests_per_minute: 1000000000, tokens_per_minute: 1000000000}}"
GRACE: Final = 40.0  # seconds in which backend and vLLM end in order


@dataclass(frozen=True, slots=True)
class Added:
    """Milliseconds, medians over the rounds: alone, through Hubgate, and the difference in each round."""

    direct_p50: float
    direct_p99: float
    through_p50: float
    through_p99: float
    added_p50: float
    added_p99: float


def added(rounds: list[tuple[Seen, Seen]]) -> Added:
    """Sum up rounds of (alone, through Hubgate)."""

    def middle(of: Callable[[Seen, Seen], float]) -> float:
        return statistics.median(of(direct, through) for direct, through in rounds) * 1e3

    return Added(
        direct_p50=middle(lambda direct, _: direct.p50),
        direct_p99=middle(lambda direct, _: direct.p99),
        through_p50=middle(lambda _, through: through.p50),
        through_p99=middle(lambda _, through: through.p99),
        added_p50=middle(lambda direct, through: through.p50 - direct.p50),
        added_p99=middle(lambda direct, through: through.p99 - direct.p99),
    )


async def measure(rounds: int, tell: Callable[[str], None]) -> Added:
    """Start the demo, measure, stop it. Raises `StartError`, `LoadError`, `ControlError`."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="hubgate-bench-")))
        layout = Layout(folder / "run")
        port, backend, engine, hub = (free_port() for _ in range(4))
        settings = folder / "settings.yaml"
        settings.write_text(_NO_LIMITS)
        command = (
            *child_python.COMMAND,
            "-m",
            "hubgate.demo.run",
            "--dir",
            str(layout.root),
            "--settings",
            str(settings),
        )
        ports = ("--port", port, "--backend-port", backend, "--engine-port", engine, "--hub-port", hub)
        arguments = (*command, *(str(one) for one in ports))
        tell("starting vLLM on the CPU")
        paths = {"PYTHONPATH": str(ROOT)}
        demo = running("demo", *arguments, folder=folder, environment=paths, grace=GRACE)
        child = await stack.enter_async_context(demo)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        await _until_answers(session, child, port)
        seen = []
        for number in range(rounds):
            tell(f"round {number + 1}")
            direct = await generate(await _direct(session, layout, backend))
            through = await generate(_order(port, tokens=(ALICE,)))
            seen.append((direct, through))
        return added(seen)


def _order(port: int, **fields: object) -> Order:
    return Order(kind="call", port=port, pids=(), seconds=SECONDS, tokens_out=1, **fields)  # type: ignore[arg-type]


async def _until_answers(session: aiohttp.ClientSession, child: Child, port: int) -> None:
    deadline = time.monotonic() + PATIENCE
    body = {"model": MODEL, "prompt": "Hello", "max_tokens": 1}
    headers = {"Authorization": f"Bearer {ALICE}"}
    while time.monotonic() < deadline and child.process.returncode is None:
        try:
            url = f"http://{LOCAL}:{port}/v1/completions"
            async with session.post(url, json=body, headers=headers) as answer:
                if answer.status == 200:
                    return
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(0.5)
    raise child.died() if child.process.returncode is not None else StartError("vLLM never answered")


async def _direct(session: aiohttp.ClientSession, layout: Layout, backend: int) -> Order:
    """An order to ask the engine itself, with a fresh grant."""
    own = keys.load_proxy_keys(layout.keys / "hubgate_proxy.key")
    public = keys.load_backend_public(layout.keys / "hubgate_backend.pub")
    grants = GrantSigner(lambda: own, time.time)
    url = f"http://{LOCAL}:{backend}"
    control = ControlClient(
        session, "gpu-0", url, backend=lambda: public, keys=lambda: own, grants=grants, now=time.time
    )
    engine: EngineInfo = (await control.hello()).engines[0]
    grant = grants.use("bench", engine.base, engine)
    return _order(engine.port, model=engine.base, headers={GRANT_HEADER: grant})
