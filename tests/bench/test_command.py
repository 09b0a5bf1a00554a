"""`python -m bench` as a process: a small run from end to end, and one that is interrupted."""

import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from pathlib import Path

import psutil

from tests.fakes.running_proxy import eventually

ROOT = Path(__file__).parents[2]
OUT = "results.md"


async def _bench(folder: Path, *arguments: str) -> Process:
    command = (sys.executable, "-m", "bench", *arguments, "--rounds", "1", "--out", str(folder / OUT))
    environment = {**os.environ, "TMPDIR": str(folder)}
    return await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env=environment, stdin=PIPE, stdout=PIPE, stderr=STDOUT
    )


def _left(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_the_real_proxy_is_measured(tmp_path: Path) -> None:
    """Hubgate with its surroundings takes part beside a peer, and each gets its figures."""
    process = await _bench(tmp_path, "--only", "hubgate,aiohttp", "--metrics", "json,cold")
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    written = (tmp_path / OUT).read_text("utf-8")
    assert re.search(r"^\| CPU per JSON request, µs \| [\d.,]+ \| [\d.,]+ \| - \|$", written, re.MULTILINE)
    assert re.search(r"^\| CPU of a token's first request, µs \| [\d.,]+ \| - \|", written, re.MULTILINE)
    assert _left(tmp_path) == [OUT]


async def test_an_interrupted_run_leaves_nothing_behind(tmp_path: Path) -> None:
    """Ctrl-C ends every process that was started, writes no results, and the exit code says so."""
    process = await _bench(tmp_path, "--only", "aiohttp", "--metrics", "json")
    family: list[psutil.Process] = []

    async def busy() -> bool:
        family[:] = psutil.Process(process.pid).children(recursive=True)
        return len(family) >= 3  # engine, contender, load generator

    await eventually(busy)
    process.send_signal(signal.SIGINT)
    await process.communicate()
    assert process.returncode == 130
    assert not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in family)
    assert _left(tmp_path) == []


async def test_a_name_that_is_not_known_is_refused(tmp_path: Path) -> None:
    """A typo does not measure nothing."""
    process = await _bench(tmp_path, "--only", "ngins")
    output, _ = await process.communicate()
    assert process.returncode == 2
    assert b"there is no ngins" in output
