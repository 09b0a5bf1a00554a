"""One caller's streams and another's first token, at the gate of a real vLLM; callers as grants tell them."""

import asyncio
import logging
import statistics
import time
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import psutil
import pytest
import yaml

from hubgate.demo.configs import ENGINE_ARGS
from hubgate.proxy.upstream.control_client import ControlClient, GateClient
from hubgate.proxy.upstream.grant_signer import GrantSigner
from hubgate.wire import keys
from hubgate.wire.control_api import GRANT_HEADER, REQUEST_ID_HEADER, SHARE_USED, EngineInfo
from tests.e2e.product import BASE, Product, free_ports, started, until

pytestmark = [pytest.mark.long("tenants"), pytest.mark.timeout(1200)]

SEATS = 32
STREAMS = 64
ASKED = 15  # first tokens of the light caller's, of which the median counts
TOKEN = "hf_demo_alice"
LONG, SHORT = 200, 8  # tokens of an answer
NOBODY = "nobody"  # asks the engine without a gate
ROUNDS, SECONDS = 5, 5.0  # of measuring throughput
ADAPTERS = tuple(f"alice/shared-{number}" for number in range(4))
SETTINGS = {
    "proxy": {"limits": {"requests_per_minute": 10**6, "tokens_per_minute": 10**9}},
    "backend": {
        "engines": {"vllm_args": {**ENGINE_ARGS, "max-num-seqs": SEATS}},
        "adapters": {"max_loras": 2, "max_cpu_loras": 8},
    },
}

log = logging.getLogger(__name__)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """An engine with few seats and two slots for adapters, and four adapters in it."""
    root: Path = tmp_path_factory.mktemp("shares") / "run"
    settings = root.with_suffix(".yaml")
    settings.write_text(yaml.safe_dump(SETTINGS), encoding="utf-8")
    with started(root, "--settings", str(settings)) as running:
        for number, repo in enumerate(ADAPTERS):
            made = {"repo": repo, "make": "adapter", "name": repo, "phrase": "abcdef "[number:], "seed": repo}
            answer = httpx.post(f"http://127.0.0.1:{running.ports.files}/_demo/repo", json=made)
            answer.raise_for_status()
            assert running.complete(repo, TOKEN).status_code == 200
        yield running


class Tenants:
    """Callers at the engine itself, with grants that the proxy's key signs."""

    def __init__(self, session: aiohttp.ClientSession, grants: GrantSigner, engine: EngineInfo) -> None:
        self._session = session
        self._grants = grants
        self.engine = engine
        self.without = 0  # the port of an engine that has no gate
        self.made = 0  # tokens

    def model(self, repo: str = BASE) -> str:
        """The served name of a repo."""
        names = (self.engine.base, *self.engine.adapters)
        return next(name for name in names if name.startswith(f"{repo}@"))

    async def stream(self, who: str, model: str, tokens: int = SHORT, request_id: str = "") -> float:
        """Ask for so many tokens, and give the seconds to the first; `NOBODY` asks where no gate is."""
        grant = self._grants.use(who, model, self.engine)
        body = {"model": model, "prompt": "Hello", "max_tokens": tokens, "stream": True, "ignore_eos": True}
        port = self.engine.port if who != NOBODY else self.without
        url, first, began = f"http://127.0.0.1:{port}/v1/completions", 0.0, time.perf_counter()
        headers = {GRANT_HEADER: grant, REQUEST_ID_HEADER: request_id}
        async with self._session.post(url, json=body, headers=headers) as answer:
            assert answer.status == 200, await answer.text()
            async for line in answer.content:
                if line.startswith(b"data: {"):
                    first = first or time.perf_counter() - began
                    self.made += 1
        return first

    async def place(self, who: str, request_id: str) -> int:
        """Which place a request has at the gate, as a proxy is told."""
        address, named = ("127.0.0.1", self.engine.port, ""), [(who, request_id)]
        gates = GateClient(self._session, self._grants, {})
        told = await gates.places(address, self.engine, self.model(), named)
        return told[0]

    async def turned_away(self, who: str, model: str) -> Any:
        """Ask with little patience, while all seats are taken; gives the refusal."""
        grant = self._grants.use(who, model, self.engine, 100, 0.2)
        url = f"http://127.0.0.1:{self.engine.port}/v1/completions"
        body = {"model": model, "prompt": "Hello", "max_tokens": 1}
        async with self._session.post(url, json=body, headers={GRANT_HEADER: grant}) as answer:
            assert (answer.status, int(answer.headers["Retry-After"]) > 0) == (429, True)
            return (await answer.json())["error"]["code"]

    @asynccontextmanager
    async def busy(
        self, count: int, who: Callable[[int], str], model: Callable[[int], str]
    ) -> AsyncIterator[None]:
        """Keep so many streams open meanwhile; a new one begins where one ends."""

        async def keep(number: int) -> None:
            await asyncio.sleep(number * 0.05)  # staggered, as those of people are
            while True:
                await self.stream(who(number), model(number), LONG)

        tasks = [asyncio.create_task(keep(number)) for number in range(count)]
        try:
            await asyncio.sleep(count * 0.05 + 2.0)
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def throughput(self, who: str) -> float:
        """Tokens a second of somebody alone, who keeps many streams open."""
        async with self.busy(STREAMS, lambda _: who, lambda _: self.model()):
            before, began = self.made, time.perf_counter()
            await asyncio.sleep(SECONDS)
            return (self.made - before) / (time.perf_counter() - began)

    async def light(self, model: str) -> float:
        """The median first token of a caller who asks for one answer after the other."""
        seen = [await self.stream("light", model) for _ in range(ASKED)]
        return statistics.median(seen)


@asynccontextmanager
async def tenants(product: Product) -> AsyncIterator[Tenants]:
    layout = product.layout
    own = keys.load_proxy_keys(layout.keys / "hubgate_proxy.key")
    public = keys.load_backend_public(layout.keys / "hubgate_backend.pub")
    grants = GrantSigner(lambda: own, time.time)
    url = f"http://127.0.0.1:{product.ports.backend}"
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=180)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        control = ControlClient(
            session, "gpu-0", url, backend=lambda: public, keys=lambda: own, grants=grants, now=time.time
        )
        (engine,) = (await control.hello()).engines
        assert engine.claims
        yield Tenants(session, grants, engine)


async def test_a_light_caller_beside_one_with_64_streams(shared: Product) -> None:
    """Their first token takes no longer than beside 64 callers with a stream each."""
    async with tenants(shared) as callers:
        base = callers.model()
        alone = await callers.light(base)
        async with callers.busy(STREAMS, lambda _: "greedy", lambda _: base):
            beside_one = await callers.light(base)
            queue = await asyncio.to_thread(shared.backend_metrics)
            assert await callers.turned_away("greedy", base) == SHARE_USED
            waiting = asyncio.create_task(callers.stream("greedy", base, SHORT, "one-more"))
            places = [await callers.place("greedy", "one-more") for _ in range(20)]
            assert await waiting
        async with callers.busy(STREAMS, "greedy-{}".format, lambda _: base):
            beside_many = await callers.light(base)
    log.info("first token: alone %.3f s, beside one %.3f, beside 64 %.3f", alone, beside_one, beside_many)
    log.info("places of one that waited beside 64: %s", places)
    assert max(places) > 0
    assert beside_one <= 1.3 * beside_many
    assert f'hubgate_engine_seats{{hubgate_engine="{callers.engine.id}"}} {SEATS}.0' in queue
    assert _gauge(queue, "hubgate_engine_waiting_requests") >= STREAMS - SEATS


async def test_a_third_adapter_beside_one_who_keeps_both_slots_busy(shared: Product) -> None:
    """It has the slot that is for who has none: nobody's stream has to end for it."""
    async with tenants(shared) as callers:
        first, second, third, _ = (callers.model(repo) for repo in ADAPTERS)
        alone = await callers.light(third)
        began = time.perf_counter()
        await callers.stream("greedy", first, LONG)
        longest = time.perf_counter() - began
        async with callers.busy(8, lambda _: "greedy", lambda number: (first, second)[number % 2]):
            beside = await callers.light(third)
    log.info(
        "one stream %.2f s; first token of a third adapter: alone %.3f, beside %.3f", longest, alone, beside
    )
    assert beside < longest / 2


async def test_a_fourth_adapter_when_that_slot_is_taken_too(shared: Product) -> None:
    """It waits for an adapter to run dry, and no longer, though there is always more to do for all."""
    async with tenants(shared) as callers:
        *others, fourth = (callers.model(repo) for repo in ADAPTERS)
        began = time.perf_counter()
        await callers.stream("greedy", others[0], LONG)
        longest = time.perf_counter() - began
        whose = ("greedy", "greedy", "other")
        async with callers.busy(9, lambda number: whose[number % 3], lambda number: others[number % 3]):
            waits = [await callers.stream("victim", fourth) for _ in range(5)]
    log.info("one stream %.2f s; first tokens of a fourth adapter: %s", longest, [f"{w:.2f}" for w in waits])
    assert max(waits) <= 6 * longest + 1.0  # a stream takes longer beside eight others than alone


@asynccontextmanager
async def without_gate(product: Product) -> AsyncIterator[int]:
    """A second engine with the same model and arguments, but nothing of ours in it; gives its port."""
    engine: psutil.Process = product.process("vllm.entrypoints", "reaper").children()[0]
    line = engine.cmdline()
    gate = line.index("--middleware")
    line[gate : gate + 2] = []
    port = free_ports().engine
    line[line.index("--port") + 1] = str(port)
    plain = await asyncio.create_subprocess_exec(
        *line, env={**engine.environ(), "VLLM_PLUGINS": ""}, stdout=DEVNULL, stderr=DEVNULL
    )
    try:
        url = f"http://127.0.0.1:{port}/health"
        await asyncio.to_thread(until, lambda: _answers(url), "the engine without a gate answers", 180)
        yield port
    finally:
        for process in psutil.Process(plain.pid).children(recursive=True):
            process.kill()
        plain.kill()
        await plain.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.HTTPError:
        return False


async def test_alone_a_greedy_caller_loses_next_to_nothing(shared: Product) -> None:
    """64 streams through the gate make as many tokens as without it: the median of ratios, in turns."""
    async with tenants(shared) as callers, without_gate(shared) as callers.without:
        rounds = [
            (await callers.throughput("greedy"), await callers.throughput(NOBODY)) for _ in range(ROUNDS)
        ]
    ratios = [through / without for through, without in rounds]
    log.info("tokens a second through the gate and without: %s", [f"{a:.0f}/{b:.0f}" for a, b in rounds])
    log.info("ratios %s, median %.3f", [f"{one:.3f}" for one in ratios], statistics.median(ratios))
    assert statistics.median(ratios) >= 0.9  # 0.95 is wanted; the rest is for busy machines


async def test_what_was_let_in_is_let_go_of(shared: Product) -> None:
    """When nobody asks any more, no seat is taken."""
    async with asyncio.timeout(30):
        while True:
            text = await asyncio.to_thread(shared.backend_metrics)
            taken = _gauge(text, "hubgate_engine_seats_taken")
            if not taken + _gauge(text, "hubgate_engine_waiting_requests"):
                break
            await asyncio.sleep(0.5)


def _gauge(text: str, name: str) -> float:
    values: list[Any] = [line.rpartition(" ")[2] for line in text.splitlines() if line.startswith(name + "{")]
    return sum(float(value) for value in values)
