"""A rolling upgrade: the last release's wheel on one side and this tree on the other, under load, both ways.

`HUBGATE_ROLLING_FROM` names another commit than the last tag, or, without one, where this branch came from.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from hubgate.demo.hub import DemoHub
from tests.backend.harness import free_ports
from tests.fakes.keyring import Keyring
from tests.test_packaging import build

ROOT = Path(__file__).parents[1]
PATIENCE = 60.0  # seconds
CALLERS = 8  # that ask all the time
REQUESTS = 400  # of a phase
MODELS = ("demo/tiny-llama", "alice/pirate-lora", "demo/public-lora")  # the adapters are cold at first

# A backend as its command runs it, but for the engines, which are its own version's fake ones.
BACKEND = """
import sys
from dataclasses import replace
from pathlib import Path

import uvloop

from hubgate.backend import app, cli
from hubgate.backend.settings import BackendSettings
from hubgate.backend.vllm_args import render
from hubgate.runtime.config import load
from hubgate.runtime.log import configure


def engine(launch):
    places = f"--places={launch.max_cpu_loras}"
    return [sys.executable, sys.argv[2], "--port", str(launch.port), places, *render(launch.vllm_args)]


settings = load(BackendSettings, Path(sys.argv[1]))
configure("info", "json")
checked = replace(app.check(settings, find_build=lambda: "vllm"), make_argv=engine)
sys.exit(uvloop.run(cli.serve(settings, checked)))
"""


@dataclass(frozen=True)
class Version:
    """One version of both programs: where it is imported from, and its fake engine."""

    name: str
    path: str  # PYTHONPATH; "": as installed here
    engine: Path


TREE = Version("tree", "", ROOT / "tests" / "backend" / "fake_engine.py")


def git(*arguments: str) -> bytes:
    """What git says; fails where it does."""
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True).stdout


def last_release() -> str:
    """The commit to come from."""
    if named := os.environ.get("HUBGATE_ROLLING_FROM"):
        return named
    for arguments in (("describe", "--tags", "--abbrev=0"), ("merge-base", "HEAD", "@{upstream}")):
        try:
            found = git(*arguments).decode().strip()
        except subprocess.CalledProcessError:
            continue
        if git("rev-parse", f"{found}^{{commit}}") != git("rev-parse", "HEAD"):
            return found
    return "HEAD~1"


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Version:
    """The last release, built as a wheel and laid out as pip does."""
    folder, commit = tmp_path_factory.mktemp("before"), last_release()
    with tarfile.open(fileobj=BytesIO(git("archive", commit))) as archive:
        archive.extractall(folder / "source", filter="data")
    wheel = build("wheel", folder / "source", folder)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")  # noqa: S202 - we made it
    return Version(commit, str(folder / "site"), folder / "source" / "tests" / "backend" / "fake_engine.py")


@dataclass
class Program:
    """A process, and what it logs."""

    process: asyncio.subprocess.Process
    lines: list[dict[str, Any]] = field(default_factory=list)

    async def logged(self, event: str) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE):
            while not (found := [line for line in self.lines if line.get("event") == event]):
                assert self.process.returncode is None, self.lines
                await asyncio.sleep(0.02)
        return found[0]

    async def end(self) -> None:
        """SIGTERM, which drains it."""
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE):
            assert await self.process.wait() == 0

    async def read_log(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.lines.append(json.loads(line) if line.startswith(b"{") else {"event": line.decode()})


@asynccontextmanager
async def started(version: Version, *arguments: str, **environ: str) -> AsyncIterator[Program]:
    """Run Python on this version's code."""
    environment = {**os.environ, **environ}
    if version.path:
        environment |= {"PYTHONPATH": version.path, "INTERPRETED": "1"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", *arguments, env=environment, stderr=asyncio.subprocess.PIPE
    )
    program = Program(process)
    reading = asyncio.create_task(program.read_log())
    try:
        yield program
        if process.returncode is None:
            await program.end()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await reading
    assert not [line for line in program.lines if line.get("level") == "error"]


class Stack:
    """Demo Hub, one backend, and proxies that come and go."""

    def __init__(self, folder: Path, hub: DemoHub, stack: AsyncExitStack) -> None:
        self._folder = folder
        self._hub = hub
        self._stack = stack
        self._ring = Keyring.make(folder / "keys")
        self._port = free_ports(4)
        self._proxies = 0

    async def backend(self, version: Version) -> Program:
        """Start the backend; its engine comes with the first request."""
        settings = {
            "listen": {"host": "127.0.0.1", "port": self._port},
            "name": "gpu-0",
            "seal": {
                "key_file": str(self._ring.backend_private),
                "proxies_file": str(self._ring.proxy_public),
            },
            "hub": {"endpoint": self._hub.endpoint},
            "store": {"path": str(self._folder / "store"), "max_bytes": 10**8, "max_model_bytes": 10**8},
            "engines": {"host": "127.0.0.1", "first_port": self._port + 1, "on_demand": ["demo/*"]},
        }
        config = self._folder / "backend.yaml"
        config.write_text(yaml.safe_dump(settings))
        arguments = ("-c", BACKEND, str(config), str(version.engine))
        program = await self._stack.enter_async_context(started(version, *arguments))
        await program.logged("backend.started")
        return program

    async def proxy(self, version: Version) -> tuple[Program, str]:
        """Start another proxy; gives where it listens, once it has the backend."""
        self._proxies += 1
        upstream = {
            "name": "gpu-0",
            "url": f"http://127.0.0.1:{self._port}",
            "public_key_file": str(self._ring.backend_public),
        }
        settings = {
            "listen": {"host": "127.0.0.1", "port": 0},
            "admin": {"port": 0},
            "hub": {"endpoint": self._hub.endpoint},
            "callers": {"anyone": True},
            "limits": {"requests_per_minute": 10**6, "tokens_per_minute": 10**9},
            "models": {"allow": ["demo/*", "alice/*"]},
            "upstreams": [upstream],
            "seal": {"key_file": str(self._ring.proxy_private)},
            "audit": {"path": str(self._folder / f"audit-{self._proxies}.jsonl")},
        }
        config = self._folder / f"proxy-{self._proxies}.yaml"
        config.write_text(yaml.safe_dump(settings))
        arguments = ("-m", "hubgate.cli", "proxy", "--config", str(config))
        program = await self._stack.enter_async_context(started(version, *arguments))
        where = await program.logged("listening")
        async with asyncio.timeout(PATIENCE), aiohttp.ClientSession() as session:
            while True:
                async with session.get(f"http://127.0.0.1:{where['admin_port']}/readyz") as answer:
                    if answer.status == 200:
                        break
                await asyncio.sleep(0.05)
        return program, f"http://127.0.0.1:{where['port']}"


class Load:
    """Callers who ask one request after the other, each wherever `url` leads by then."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url
        self.came: Counter[object] = Counter()
        self._headers = {"Authorization": f"Bearer {token}"}
        self._served = asyncio.Condition()
        self._stop = False

    async def until(self, more: int) -> None:
        """Wait until so many more were answered."""
        goal = self.came.total() + more
        async with asyncio.timeout(PATIENCE), self._served:
            await self._served.wait_for(lambda: self.came.total() >= goal)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Load"]:
        async with aiohttp.ClientSession(headers=self._headers) as session, asyncio.TaskGroup() as callers:
            for number in range(CALLERS):
                callers.create_task(self._ask_on(session, number))
            try:
                yield self
            finally:
                self._stop = True

    async def _ask_on(self, session: aiohttp.ClientSession, number: int) -> None:
        while not self._stop:
            model = MODELS[number % len(MODELS)]
            number += 1
            # One in four takes a fifth of a second, so that something is always in flight.
            body = {"model": model, "prompt": "x", "max_tokens": 20 if number % 4 == 0 else 1}
            try:
                async with session.post(f"{self.url}/v1/completions", json=body) as answer:
                    told = await answer.json()
                    right = answer.status == 200 and told["model"].startswith(f"{model}@")
                    what: object = "served" if right else (answer.status, str(told)[:300])
            except (aiohttp.ClientError, OSError, ValueError) as error:
                what = type(error).__name__
            self.came[what] += 1
            async with self._served:
                self._served.notify_all()


@pytest.mark.long("rolling")
@pytest.mark.parametrize("newer", ["proxy", "backend"])
async def test_neighbouring_versions_serve_together(tmp_path: Path, before: Version, newer: str) -> None:
    """One side is upgraded, cold adapters included, and another proxy takes over under load: 0 are lost."""
    proxy, backend = (TREE, before) if newer == "proxy" else (before, TREE)
    async with DemoHub.start() as hub, AsyncExitStack() as stack:
        setup = Stack(tmp_path, hub, stack)
        await setup.backend(backend)
        first, url = await setup.proxy(proxy)
        async with Load(url, hub.token("alice")).running() as load:
            await load.until(REQUESTS)
            # The other version takes over, as in a roll-out or a roll-back; then this one comes back.
            for version in (before if proxy is TREE else TREE, proxy):
                second, load.url = await setup.proxy(version)
                await load.until(CALLERS)
                await first.end()
                await load.until(REQUESTS)
                first = second
        assert load.came == {"served": load.came.total()}
        assert load.came.total() >= 3 * REQUESTS
    told = f"{newer} of the tree, the other side of {before.name}: {load.came.total()} served, 0 lost"
    print(told)  # noqa: T201 - the numbers of a run, shown by pytest -s


def test_there_is_something_to_come_from() -> None:
    """Where a tag, a branch or a parent is known; an unpacked archive has none."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no clone")
    assert git("rev-parse", f"{last_release()}^{{commit}}") != git("rev-parse", "HEAD")
