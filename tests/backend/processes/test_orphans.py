"""The backend leaves no zombie and is whole again, whichever process is killed, and without an init."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from hubgate.demo.hub import DemoHub
from tests.backend.harness import BASE, settings_for
from tests.fakes.keyring import Keyring

# The program as `hubgate backend` runs it, but for the engines.
PROGRAM = """
    import sys, time
    from dataclasses import replace
    from pathlib import Path

    import uvloop

    from hubgate.backend import app, cli
    from hubgate.backend.settings import BackendSettings
    from tests.backend.harness import fake_argv

    settings = BackendSettings.model_validate_json(Path(sys.argv[1]).read_text())
    checked = app.check(settings, find_gpus=lambda: None, find_build=lambda: "vllm")
    checked = replace(checked, make_argv=fake_argv)
    sys.exit(uvloop.run(cli.serve(settings, checked)))
"""
PATIENCE = 30.0  # seconds
AS_FIRST = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")


@dataclass(frozen=True)
class Process:
    pid: int
    parent: int
    zombie: bool
    command: str


def processes(of: int) -> list[Process]:
    """A process and its family, oldest first."""
    found: dict[int, Process] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            stat = (entry / "stat").read_text()
            command = (entry / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
        state, parent, *_ = stat[stat.rindex(")") + 2 :].split()
        found[int(entry.name)] = Process(int(entry.name), int(parent), state == "Z", command)
    family = [of]
    for pid in family:
        family += [one.pid for one in found.values() if one.parent == pid]
    return [found[pid] for pid in family if pid in found]


async def until(probe: Callable[[], object], what: str) -> None:
    """Wait for it."""
    try:
        async with asyncio.timeout(PATIENCE):
            while not await asyncio.to_thread(probe):  # noqa: ASYNC110 - it is another process
                await asyncio.sleep(0.05)
    except TimeoutError:
        pytest.fail(f"not so: {what}")


class Program:
    """A backend in a process of its own."""

    def __init__(self, root: int, url: str) -> None:
        self.root = root
        self._url = url

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._url}/readyz", timeout=2) as answer:  # noqa: S310
                return bool(answer.status == 200)
        except OSError:
            return False

    @property
    def family(self) -> list[Process]:
        """All but itself."""
        return processes(self.root)[1:]

    @property
    def zombies(self) -> list[Process]:
        return [one for one in self.family if one.zombie]

    def named(self, part: str) -> list[int]:
        return [one.pid for one in self.family if part in one.command]


@asynccontextmanager
async def started(folder: Path, hub: DemoHub, *command: str) -> AsyncIterator[Program]:
    """Run it, behind `command`, with a fake engine that has a child, until it is ready."""
    keyring = Keyring.make(folder / "keys")
    engines = {"preload": [{"repo": BASE, "vllm_args": {"child": True}}]}
    settings = settings_for(folder, keyring, hub, engines=engines)
    config = folder / "settings.json"
    config.write_text(settings.model_dump_json())
    environment = {**os.environ, "HF_TOKEN": hub.token("alice")}
    argv = [*command, sys.executable, "-c", textwrap.dedent(PROGRAM), str(config)]
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(*argv, env=environment, stdout=log, stderr=log)
    try:
        root = process.pid
        if command:
            await until(lambda: processes(process.pid)[1:], "it starts")
            root = processes(process.pid)[1].pid
        program = Program(root, f"http://127.0.0.1:{settings.listen.port}")
        await until(program.ready, "it becomes ready")
        yield program
        os.kill(root, signal.SIGTERM)
        async with asyncio.timeout(PATIENCE):
            assert await process.wait() == 0, (folder / "log").read_text()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def killed_one_by_one(program: Program) -> None:
    """SIGKILL each process of the family in turn: each time it heals, and no zombie is left."""
    await until(lambda: not program.zombies, "it is at rest without zombies")
    for part in ("reaper.py", "fake_engine.py", "time.sleep(600)", "downloads.worker"):
        for pid in program.named(part):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:  # it went with the one before
                continue
        await until(lambda: not program.zombies, f"no zombie is left of {part}")
        await until(program.ready, f"it is ready again after {part}")


async def test_no_zombie_is_left_whichever_process_is_killed(tmp_path: Path, hub: DemoHub) -> None:
    """Reapers, engine, its child, the spare download worker; the backend takes in what they leave."""
    async with started(tmp_path, hub) as program:
        await killed_one_by_one(program)
    assert not program.family


def _as_first() -> bool:
    there = shutil.which(AS_FIRST[0]) is not None
    return there and not subprocess.run([*AS_FIRST, "true"], check=False).returncode


@pytest.mark.skipif(not _as_first(), reason="no PID namespace can be made here")
async def test_it_is_its_own_init(tmp_path: Path, hub: DemoHub) -> None:
    """As process 1 of a PID namespace, as in a container without an init, it is the same."""
    async with started(tmp_path, hub, *AS_FIRST) as program:
        await killed_one_by_one(program)
