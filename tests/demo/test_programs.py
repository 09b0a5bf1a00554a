"""`make run` keeps its programs up, says what happened to one, and knows when to give up."""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import yaml

from hubgate.demo import programs
from hubgate.demo.programs import MAX_QUICK, Program, program
from hubgate.proxy.audit import chain
from hubgate.runtime import child_python
from tests.backend.harness import free_ports
from tests.cases import each
from tests.fakes.engine import LOCAL, PATIENCE
from tests.fakes.raw import ask, request
from tests.fakes.running_proxy import ALICE, Edge, eventually

LIVES = ("-c", "print('up', flush=True); import signal; signal.pause()")
SIGNALS = ["SIGKILL", "SIGSEGV", "SIGABRT", "SIGTERM", "SIGINT"]


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "FIRST_PAUSE", 0.001)


class Kept:
    """A program that is kept up, and what was said of it."""

    def __init__(self, one: Program) -> None:
        self.program = one
        self.said: list[str] = []
        self.task = asyncio.create_task(one.keep(self.said.append))

    async def until_up(self, count: int) -> None:
        """Wait until it has been started so many times, and runs."""
        await until(lambda: self.starts == count and self.program.process.returncode is None)

    @property
    def starts(self) -> int:
        return self.program.log.read_text().splitlines().count("up")

    async def until_said(self, count: int) -> None:
        """Wait until so many deaths were told."""
        await until(lambda: len(self.said) == count)

    async def failure(self) -> str | None:
        """Wait until it is given up."""
        async with asyncio.timeout(PATIENCE):
            await self.task
        return self.program.failure


async def until(condition: Callable[[], bool]) -> None:
    async def probe() -> bool:
        return condition()

    await eventually(probe)


@asynccontextmanager
async def kept(folder: Path, *arguments: str) -> AsyncIterator[Kept]:
    async with program("proxy", folder, *arguments) as one:
        running = Kept(one)
        try:
            yield running
        finally:
            running.task.cancel()
            with suppress(asyncio.CancelledError):
                await running.task


@each("name", SIGNALS)
async def test_what_a_signal_ends_is_started_again(tmp_path: Path, name: str) -> None:
    """It runs again, and the user is told what happened and where to look; its log is kept."""
    async with kept(tmp_path, *LIVES) as running:
        await running.until_up(1)
        first = running.program.process.pid
        os.kill(first, signal.Signals[name])
        await running.until_up(2)
        assert running.program.process.pid != first
        (said,) = running.said
    assert said.startswith("proxy ")
    assert str(tmp_path / "proxy.log") in said
    if name in ("SIGKILL", "SIGSEGV", "SIGABRT"):
        assert f"was ended by {name}" in said


@each("status", [0, 1, 3])
async def test_what_ends_by_itself_again_and_again_is_given_up(tmp_path: Path, status: int) -> None:
    """A program that dies right after its start, several times in a row, is not started for ever."""
    async with kept(tmp_path, "-c", f"print('up', flush=True); raise SystemExit({status})") as running:
        failure = await running.failure()
        assert failure == f"proxy ended with status {status}, {MAX_QUICK} times right after its start"
        assert len(running.said) == MAX_QUICK - 1
        assert running.starts == MAX_QUICK


async def test_a_wrong_configuration_is_not_tried_again(tmp_path: Path) -> None:
    """Status 2 means that a restart cannot help."""
    async with kept(tmp_path, "-c", "raise SystemExit(2)") as running:
        assert await running.failure() == "proxy refuses to start"
        assert running.said == []


async def test_a_program_that_lived_is_never_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it is killed: only deaths right after the start are counted, and only in a row."""
    monkeypatch.setattr(programs, "QUICK", 0.0)
    async with kept(tmp_path, *LIVES) as running:
        for count in range(1, 2 * MAX_QUICK):
            await running.until_up(count)
            running.program.process.kill()
        await running.until_up(2 * MAX_QUICK)
        assert running.program.failure is None


async def test_the_pauses_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What dies at once is left longer and longer before the next try."""
    monkeypatch.setattr(programs, "FIRST_PAUSE", 0.0625)
    async with kept(tmp_path, "-c", "raise SystemExit(1)") as running:
        await running.failure()
    assert [said.split(" in ")[1].split(" s.")[0] for said in running.said] == [
        "0.0625",
        "0.125",
        "0.25",
        "0.5",
    ]


async def test_what_cannot_be_started_again_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine without room for a process is told, and not tried for ever."""

    async def full(*_: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    async with kept(tmp_path, *LIVES) as running:
        await running.until_up(1)
        monkeypatch.setattr(programs, "_spawn", full)
        running.program.process.kill()
        assert await running.failure() == "proxy cannot be started: Resource temporarily unavailable"


async def test_leaving_stops_what_was_started_again(tmp_path: Path) -> None:
    """The second process ends with the launcher as the first would have."""
    async with kept(tmp_path, *LIVES) as running:
        await running.until_up(1)
        running.program.process.kill()
        await running.until_up(2)
    assert running.program.process.returncode == -signal.SIGTERM


async def test_a_killed_proxy_serves_again_and_goes_on_with_its_trail(tmp_path: Path) -> None:
    """The real one: after a SIGKILL it answers at the same address, and its trail is whole."""
    port = free_ports(2)
    sections = {"listen": {"host": LOCAL, "port": port}, "admin": {"host": LOCAL, "port": port + 1}}
    async with Edge.start(tmp_path) as edge:
        config, trail = tmp_path / "kept.yaml", tmp_path / "kept.jsonl"
        values = yaml.safe_load(edge.config.read_text())
        config.write_text(yaml.safe_dump({**values, **sections, "audit": {"path": str(trail)}}))
        async with kept(tmp_path, "-m", "hubgate.cli", "proxy", "--config", str(config)) as running:
            for count in (1, 2, 3):
                await eventually(answers(port))
                await recorded(trail, count)
                running.program.process.kill()
                await running.until_said(count)
        verdict = chain.verify(trail, edge.checked.keys.current().derive("audit"))
    assert (verdict.records, verdict.faults) == (3, ())


async def recorded(trail: Path, count: int) -> None:
    """Wait until it holds so many records, and its head is written."""
    head = f'"seq":{count},'
    path = trail.with_name(f"{trail.name}.head")
    await until(lambda: path.exists() and head in path.read_text())


def answers(port: int) -> Callable[[], Awaitable[bool]]:
    """Whether a proxy lists models there."""

    async def probe() -> bool:
        try:
            answer = await ask(port, request("GET", "/v1/models", [("Authorization", f"Bearer {ALICE}")]))
        except OSError:
            return False
        return answer.status == 200

    return probe


def test_the_launcher_ends_where_a_program_is_given_up(tmp_path: Path) -> None:
    """Its exit status is 1, it shows the end of that program's log, and the others end with it."""
    settings = tmp_path / "settings.yaml"
    settings.write_text("backend: {engines: {sideways: 1}}")
    port = free_ports(8)
    ran = subprocess.run(
        [
            *(*child_python.COMMAND, "-m", "hubgate.demo.run", "--dir", str(tmp_path / "run")),
            *("--port", str(port), "--backend-port", str(port + 2), "--engine-port", str(port + 4)),
            *("--hub-port", str(port + 6), "--settings", str(settings)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1
    assert (
        f"backend refuses to start; giving up. The end of {tmp_path / 'run' / 'log' / 'backend.log'}"
        in ran.stdout
    )
    assert "engines.sideways" in ran.stdout
    assert "nothing is left running" in ran.stdout
