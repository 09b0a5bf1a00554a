"""`hubgate reload` and SIGHUP on programs that run: what counts at once, what later, and what is refused."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from hubgate.demo.hub import DemoHub
from hubgate.runtime import child_python
from tests.backend.harness import BASE, free_ports
from tests.cli.conftest import configured
from tests.fakes.keyring import Keyring
from tests.fakes.raw import ask, request

PATIENCE = 30.0  # seconds
COMMAND = (*child_python.COMMAND, "-m", "hubgate.cli")

# `hubgate backend` as it is, but for the engines.
BACKEND = """
import sys
from pathlib import Path
from dataclasses import replace
from hubgate.backend import app, cli
from hubgate.backend.settings import BackendSettings
from hubgate.runtime.config import load
from tests.backend.harness import fake_argv

check = app.check
cli.check = lambda settings: replace(check(settings, find_build=lambda: "vllm"), make_argv=fake_argv)
cli.Source = lambda read: app.Source(read, cli.check)
sys.exit(cli.run(lambda: load(BackendSettings, Path(sys.argv[1]))))
"""


@dataclass
class Program:
    """A program in a process of its own, and its log."""

    process: asyncio.subprocess.Process
    config: Path
    lines: list[dict[str, Any]] = field(default_factory=list)

    async def logged(self, event: str, after: int = 0) -> dict[str, Any]:
        """Wait for an event, among the lines after so many."""
        async with asyncio.timeout(PATIENCE):
            while not (found := [line for line in self.lines[after:] if line["event"] == event]):
                assert self.process.returncode is None, self.lines
                await asyncio.sleep(0.02)
        return found[0]

    async def read_log(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.lines.append(json.loads(line))

    def change(self, **sections: Any) -> None:
        """Change sections of the file."""
        values = yaml.safe_load(self.config.read_text())
        for name, section in sections.items():
            values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
        self.config.write_text(yaml.safe_dump(values))

    async def hang_up(self, event: str) -> dict[str, Any]:
        """Send SIGHUP, and wait for what is logged of it."""
        before = len(self.lines)
        self.process.send_signal(signal.SIGHUP)
        return await self.logged(event, before)


@asynccontextmanager
async def started(argv: Sequence[str], config: Path, event: str) -> AsyncIterator[Program]:
    """Run a program until the block ends, from when it has logged this event."""
    process = await asyncio.create_subprocess_exec(*argv, stderr=asyncio.subprocess.PIPE)
    program = Program(process, config)
    reading = asyncio.create_task(program.read_log())
    try:
        await program.logged(event)
        yield program
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await reading


async def reload(config: Path) -> tuple[int | None, str]:
    """`hubgate reload`: exit code, and what it said."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        "reload",
        "--config",
        str(config),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    return process.returncode, out.decode()


@pytest.fixture
async def proxy(tmp_path: Path) -> AsyncIterator[Program]:
    admin = {"host": "127.0.0.1", "port": free_ports(1)}
    config = configured(tmp_path, admin=admin)
    async with started([*COMMAND, "proxy", "--config", str(config)], config, "listening") as program:
        yield program


async def test_a_proxy_reloads_by_command(proxy: Program) -> None:
    """Exit code 0 with what has changed, and by name what waits for a restart; the log says the same."""
    assert await reload(proxy.config) == (0, "reloaded; changed: nothing\n")
    before = len(proxy.lines)
    proxy.change(limits={"requests_per_minute": 7}, timeouts={"drain": 5})
    code, said = await reload(proxy.config)
    assert (code, said.splitlines()) == (
        0,
        ["reloaded; changed: limits", "these count after a restart: timeouts"],
    )
    assert (await proxy.logged("configuration reloaded", before))["need_restart"] == ["timeouts"]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"limits": {"requests_per_minute": 0}}, "limits.requests_per_minute"),
        ({"callers": {"users": [], "orgs": []}}, "callers: names nobody"),
        (
            {"keys": [{"name": "ci", "sha256": "0" * 64, "token": {"file": "/no"}, "models": ["a/*"]}]},
            "keys.0.token",
        ),
        ({"admin": {"key_file": "/no/where"}}, "admin.key_file: /no/where: No such file"),
        ({"hub": {"ca_file": "/no/where"}}, "hub.ca_file: /no/where: No such file"),
    ],
)
async def test_what_a_start_would_refuse_is_refused(
    proxy: Program, change: dict[str, Any], fault: str
) -> None:
    """By command with exit code 2 and each fault, by SIGHUP in the log; what was in force stays."""
    proxy.change(**change)
    code, said = await reload(proxy.config)
    assert (code, fault in said) == (2, True), said
    assert fault in str((await proxy.hang_up("configuration not reloaded"))["faults"])
    port = yaml.safe_load(proxy.config.read_text())["admin"]["port"]
    assert (await ask(port, request("GET", "/livez"))).status == 200


async def test_the_level_of_the_log_changes(proxy: Program) -> None:
    """From the next line on."""
    proxy.change(log={"level": "warning"})
    assert (await reload(proxy.config))[0] == 0
    before = len(proxy.lines)
    proxy.change(log={"level": "info"}, limits={"weight": 5})
    assert (await reload(proxy.config))[0] == 0
    assert (await proxy.logged("configuration reloaded", before))["changed"] == ["limits", "log"]
    assert [line["level"] for line in proxy.lines[before:-1]] == []


async def test_nobody_reloads_without_the_programs_own_key(proxy: Program, tmp_path: Path) -> None:
    """Neither with none, nor with another proxy's; one that does not run is told as that. Exit code 1."""
    port = yaml.safe_load(proxy.config.read_text())["admin"]["port"]
    assert (await ask(port, request("POST", "/reload"))).status == 401
    (tmp_path / "other").mkdir()
    other = configured(tmp_path / "other", admin={"host": "127.0.0.1", "port": port})
    code, said = await reload(other)
    assert (code, "has another key than" in said) == (1, True)
    nobody = configured(tmp_path / "other", admin={"host": "127.0.0.1", "port": 9})
    code, said = await reload(nobody)
    assert (code, "cannot be asked" in said) == (1, True)


async def test_a_hangup_during_the_start_does_not_end_it(tmp_path: Path) -> None:
    """It counts when the program runs: a reload that comes early is not a crash."""
    config = configured(tmp_path)
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "proxy", "--config", str(config), stderr=asyncio.subprocess.PIPE
    )
    program = Program(process, config)
    reading = asyncio.create_task(program.read_log())
    try:
        hanging = asyncio.create_task(_hang_up_while(process))
        await program.logged("configuration reloaded")
        hanging.cancel()
    finally:
        process.kill()
        await process.wait()
        await reading


async def _hang_up_while(process: asyncio.subprocess.Process) -> None:
    """Once the process has said that it takes the signal (proc(5), SigCgt)."""
    status = Path(f"/proc/{process.pid}/status")
    caught = 0
    while not caught & 1 << signal.SIGHUP - 1:
        text = status.read_text()  # noqa: ASYNC240 - there is no disk behind it
        (line,) = [line for line in text.splitlines() if line.startswith("SigCgt:")]
        caught = int(line.split()[1], 16)
        await asyncio.sleep(0)
    process.send_signal(signal.SIGHUP)


@pytest.fixture
async def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Program]:
    ring, port = Keyring.make(tmp_path / "keys"), free_ports(6)
    config = tmp_path / "backend.yaml"
    async with DemoHub.start(repos=tmp_path / "repos") as hub:
        monkeypatch.setenv("HF_TOKEN", hub.token("alice"))
        values = {
            "listen": {"host": "127.0.0.1", "port": port},
            "name": "gpu-0",
            "seal": {"key_file": str(ring.backend_private), "proxies_file": str(ring.proxy_public)},
            "hub": {"endpoint": hub.endpoint},
            "store": {"path": str(tmp_path / "store"), "max_bytes": 10**8, "max_model_bytes": 10**8},
            "engines": {
                "host": "127.0.0.1",
                "first_port": port + 1,
                "on_demand": ["demo/*"],
                "max_running": 2,
            },
        }
        config.write_text(yaml.safe_dump(values))
        async with started(
            [sys.executable, "-c", BACKEND, str(config)], config, "backend.started"
        ) as program:
            yield program


async def ready(backend: Program) -> int:
    """The status of /readyz."""
    port = yaml.safe_load(backend.config.read_text())["listen"]["port"]
    return (await ask(port, request("GET", "/readyz"))).status


async def test_a_backend_reloads_by_signal_and_goes_on(backend: Program) -> None:
    """SIGHUP ended it before. What counts at once is in force, what cannot is named."""
    backend.change(store={"max_bytes": 10**9}, engines={"max_running": 3, "idle_timeout": 60}, name="gpu-1")
    told = await backend.hang_up("configuration reloaded")
    assert sorted(told["changed"]) == ["engines.idle_timeout", "store.max_bytes"]
    assert sorted(told["need_restart"]) == ["engines.max_running", "name"]
    assert await ready(backend) == 200


async def test_a_backend_reloads_by_command(backend: Program) -> None:
    """A model that is preloaded from now on is fetched, started and waited for, and not once it is not."""
    backend.change(engines={"preload": [{"repo": BASE}]}, log={"level": "debug"})
    code, said = await reload(backend.config)
    assert (code, said) == (0, "reloaded; changed: engines.preload, log.level\n")
    assert await ready(backend) == 503
    await backend.logged("preload.ready")
    assert await ready(backend) == 200
    assert await backend.logged("engine.log")  # of the level that is new
    before = len(backend.lines)
    backend.change(engines={"preload": []})
    assert await reload(backend.config) == (0, "reloaded; changed: engines.preload\n")
    backend.change(engines={"preload": [{"repo": BASE}]})
    assert (await reload(backend.config))[0] == 0
    assert (await backend.logged("preload.ready", before))["engine"] == "gpu-0/0"  # it had stayed


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"engines": {"on_demand": []}}, "both empty"),
        ({"store": {"max_bytes": 1}}, "max_model_bytes is larger than max_bytes"),
        ({"seal": {"key_file": "/no"}}, "seal.key_file"),
        (
            {"engines": {"max_running": 3, "preload": [{"repo": f"demo/m{n}"} for n in range(3)]}},
            "but max_running is 2, until a restart",
        ),
    ],
)
async def test_a_backend_refuses_what_a_start_would(
    backend: Program, change: dict[str, Any], fault: str
) -> None:
    """The log says why, the old configuration stays, and so does the process."""
    backend.change(**change)
    assert fault in str((await backend.hang_up("configuration not reloaded"))["faults"])
    code, said = await reload(backend.config)
    if "seal" not in change:  # then the command cannot even ask
        assert (code, fault in said) == (2, True), said
    assert await ready(backend) == 200
