"""What Hubgate adds to the first request for an adapter, beyond download, engine's load and answer.

For each of many adapters that nobody has loaded, one after the other, on a backend that is otherwise
idle: the first request, the same request once more, and the same files fetched directly.
"""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import aiohttp
import msgspec
from huggingface_hub import HfApi, hf_hub_download

from bench.client import LoadError
from bench.contenders import ROOT
from bench.gauge import cpu_seconds
from bench.messages import LOCAL, MODEL
from bench.process import Child, StartError, free_port, running, until_listening
from bench.rows import Row
from bench.surroundings import ALICE
from hubgate.demo import configs
from hubgate.demo.configs import Layout, Ports
from hubgate.runtime import child_python

COUNT: Final = 25  # adapters
UNCOUNTED: Final = 3  # before them: connections, imports, caches
PATIENCE: Final = 420.0  # seconds until vLLM has to answer
FILES: Final = ("adapter_config.json", "adapter_model.safetensors")
QUIET: Final = 0.02  # of a core; a backend that does nothing else has its next worker ready
STEP: Final = 0.25  # seconds between two looks


ROWS: Final = (
    Row(
        "cold_adapter",
        "added to a cold adapter's first request, p50",
        "ms",
        f"without download, engine's load and answer; {COUNT} adapters, one after the other; see README.md",
    ),
    Row("cold_adapter_p90", "the same, p90", "ms", "the same"),
    Row(
        "cold_adapter_ratio", "that first request, in multiples of what it takes without us", "x", "the same"
    ),
    Row("cold_adapter_first", "that first request, p50", "ms", "as the caller sees it"),
    Row("cold_adapter_bare", "of it a bare download of the same files, p50", "ms", "by huggingface_hub"),
    Row("cold_adapter_engine", "of it the engine's own load, p50", "ms", "as the backend waits for it"),
)


@dataclass(frozen=True, slots=True)
class Times:
    """One adapter, in seconds."""

    first: float
    again: float
    bare: float
    """The same files, fetched directly."""
    engine: float
    """The engine's own load, from the backend's log."""
    parts: Mapping[str, float]
    """What the first answer's Server-Timing says."""

    @property
    def rest(self) -> float:
        """What a first request takes without us."""
        return self.again + self.bare + self.engine

    @property
    def ours(self) -> float:
        return self.first - self.rest


@dataclass(frozen=True, slots=True)
class Site:
    """A running product, and where its backend's log is."""

    layout: Layout
    ports: Ports
    child: Child
    log: Path


def summary(times: Sequence[Times]) -> dict[str, float]:
    """Medians, in milliseconds."""

    def middle(of: Callable[[Times], float]) -> float:
        return statistics.median(of(one) for one in times) * 1e3

    return {
        "cold_adapter": middle(lambda one: one.ours),
        "cold_adapter_p90": statistics.quantiles((one.ours for one in times), n=10)[-1] * 1e3,
        "cold_adapter_first": middle(lambda one: one.first),
        "cold_adapter_bare": middle(lambda one: one.bare),
        "cold_adapter_engine": middle(lambda one: one.engine),
        "cold_adapter_ratio": statistics.median(one.first / one.rest for one in times),
    }


@asynccontextmanager
async def fake_site(folder: Path) -> AsyncIterator[Site]:
    """The demo Hub, the real backend with a fake engine, and the real proxy. Raises `StartError`."""
    ports = _ports()
    layout = Layout(folder)
    configs.write(layout, ports)
    python, paths = (*child_python.COMMAND, "-m"), {"PYTHONPATH": str(ROOT)}
    hub_ports = ("--port", str(ports.hub), "--files-port", str(ports.files))
    token = {"HF_API_TOKEN_FILE": str(layout.service_token)}
    backend = ("bench.fake_backend", "--config", str(layout.backend_config))
    proxy = ("hubgate.cli", "proxy", "--config", str(layout.proxy_config))
    async with AsyncExitStack() as stack:

        async def start(name: str, *command: str, **environment: str) -> Child:
            whole = running(name, *python, *command, folder=folder, environment={**paths, **environment})
            return await stack.enter_async_context(whole)

        hub = await start("hub", "hubgate.demo.hub", *hub_ports)
        await until_listening(hub, ports.hub)
        child = await start("backend", *backend, **token, **BACKEND)
        await until_listening(await start("proxy", *proxy, **PROXY), ports.proxy)
        yield Site(layout, ports, child, child.log)


# Loads are not rationed, none makes room for another, and the log can be read.
PROXY: Final = {"HUBGATE_LIMITS__COLD_LOADS_PER_HOUR": "1000000"}
BACKEND: Final = {"HUBGATE_LOG__FORMAT": "json", "HUBGATE_ADAPTERS__MAX_CPU_LORAS": "64"}


def _ports() -> Ports:
    """Free ones; the admin and files ports are the neighbours."""
    while True:
        ports = Ports(*(free_port() for _ in range(4)))
        if len({port for _, port in ports.named()}) == 6:
            return ports


async def measure(site: Site, count: int = COUNT) -> list[Times]:
    """Take the times of `count` adapters. Raises `LoadError`, `StartError`."""
    async with aiohttp.ClientSession() as session:
        await _until_answers(session, site)
        with TemporaryDirectory(prefix="hubgate-bench-") as folder:
            every = [await _one(session, site, number, Path(folder)) for number in range(UNCOUNTED + count)]
    return every[UNCOUNTED:]


async def _one(session: aiohttp.ClientSession, site: Site, number: int, folder: Path) -> Times:
    repo = f"alice/cold-{number}"
    made = {"repo": repo, "make": "adapter", "name": repo, "phrase": "yo ", "seed": repo, "private": True}
    async with session.post(f"http://{LOCAL}:{site.ports.files}/_demo/repo", json=made) as answer:
        sha = (await answer.json())["sha"]
    await _until_quiet(site.child)
    first, parts = await _ask(session, site, repo)
    again, _ = await _ask(session, site, repo)
    endpoint = f"http://{LOCAL}:{site.ports.hub}"
    bare = await asyncio.to_thread(_bare, endpoint, repo, sha, folder / str(number))
    return Times(first, again, bare, _engine_seconds(site.log, f"{repo}@{sha}"), parts)


async def _ask(session: aiohttp.ClientSession, site: Site, repo: str) -> tuple[float, dict[str, float]]:
    body = {"model": repo, "prompt": "Hello", "max_tokens": 1, "temperature": 0}
    headers = {"Authorization": f"Bearer {ALICE}"}
    url = f"http://{LOCAL}:{site.ports.proxy}/v1/completions"
    started = time.perf_counter()
    async with session.post(url, json=body, headers=headers) as answer:
        said = await answer.read()
        seconds = time.perf_counter() - started
        if answer.status != 200 or repo.encode() not in said:
            raise LoadError(f"{repo}: {answer.status} {said[:300].decode(errors='replace')}")
        timing = answer.headers.get("Server-Timing", "")
    parts = (part.partition(";dur=") for part in timing.split(", "))
    return seconds, {name: float(value) / 1e3 for name, _, value in parts if value}


def _bare(endpoint: str, repo: str, sha: str, folder: Path) -> float:
    """What the Hub's own client takes, with a connection that is open: a listing, and both files at once."""
    started = time.perf_counter()
    HfApi(endpoint=endpoint, token=ALICE).model_info(repo, revision=sha, files_metadata=True)
    fetch = partial(hf_hub_download, repo, revision=sha, local_dir=folder, token=ALICE, endpoint=endpoint)
    with ThreadPoolExecutor(len(FILES)) as pool:
        list(pool.map(fetch, FILES))
    return time.perf_counter() - started


def _engine_seconds(log: Path, name: str) -> float:
    """How long the backend waited for the engine to load it. Raises `LoadError`."""
    for line in log.read_bytes().splitlines():
        if b"adapter.loaded" in line and name.encode() in line:
            return float(msgspec.json.decode(line)["seconds"])
    raise LoadError(f"the backend's log does not say that {name} was loaded")


async def _until_quiet(child: Child) -> None:
    """Wait until the backend, with all that it started, does nothing. Raises `StartError`."""
    for _ in range(240):
        pids = child.pids()
        try:
            before = cpu_seconds(pids)
            await asyncio.sleep(STEP)
            if child.pids() == pids and cpu_seconds(pids) - before < QUIET * STEP * len(pids):
                return
        except OSError:  # one of them ended meanwhile
            continue
    raise StartError("the backend never was idle")


async def _until_answers(session: aiohttp.ClientSession, site: Site) -> None:
    """Wait until the base model answers. Raises `StartError`."""
    deadline = time.monotonic() + PATIENCE
    body = {"model": MODEL, "prompt": "Hello", "max_tokens": 1}
    url = f"http://{LOCAL}:{site.ports.proxy}/v1/completions"
    while time.monotonic() < deadline:
        if site.child.process.returncode is not None:
            raise site.child.died()
        try:
            async with session.post(url, json=body, headers={"Authorization": f"Bearer {ALICE}"}) as answer:
                if answer.status == 200:
                    return
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(0.2)
    raise StartError("the base model never answered")
