"""`hubgate proxy` as a process of its own: it starts, refuses to start, and stops."""

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from hubgate.runtime import child_python
from tests.cli.conftest import configured
from tests.fakes.raw import ask, request

PATIENCE = 30.0  # seconds; a start is under two on an idle machine


async def start(config: Path, **environment: str) -> asyncio.subprocess.Process:
    """Start a proxy."""
    return await asyncio.create_subprocess_exec(
        *child_python.COMMAND,
        "-m",
        "hubgate.cli",
        "proxy",
        "--config",
        str(config),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environment},
    )


async def logged(process: asyncio.subprocess.Process, event: str) -> dict[str, Any]:
    """Read the log up to an event."""
    assert process.stderr is not None
    async with asyncio.timeout(PATIENCE):
        async for line in process.stderr:
            found: dict[str, Any] = json.loads(line)
            if found["event"] == event:
                return found
    pytest.fail(f"{event} was never logged")


async def ended(process: asyncio.subprocess.Process) -> tuple[int | None, str]:
    """Wait for its end; gives the exit code and what it still said."""
    async with asyncio.timeout(PATIENCE):
        out, err = await process.communicate()
    return process.returncode, (out + err).decode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_serves_until_it_is_told_to_stop(tmp_path: Path, number: signal.Signals) -> None:
    """The log says where it listens; a signal ends it with exit code 0 and a closed audit."""
    process = await start(configured(tmp_path))
    try:
        where = await logged(process, "listening")
        answer = await ask(where["port"], request("GET", "/health"))
        assert answer.json() == {"status": "alive"}
        refused = await ask(where["port"], request("GET", "/v1/models"))
        assert refused.code == "invalid_api_key"
        admin = await ask(where["admin_port"], request("GET", "/readyz"))
        assert (admin.status, admin.body) == (503, b"no upstream is up\n")
        process.send_signal(number)
        code, said = await ended(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert code == 0
    assert "Traceback" not in said
    assert b"auth.denied" in (tmp_path / "audit.jsonl").read_bytes()


async def test_it_refuses_the_slow_parser(tmp_path: Path) -> None:
    """Without aiohttp's C extensions the pure-Python parser would be used silently: it does not start."""
    code, said = await ended(await start(configured(tmp_path), AIOHTTP_NO_EXTENSIONS="1"))
    assert code == 2
    assert "AIOHTTP_NO_EXTENSIONS" in said
    assert "Traceback" not in said


async def test_it_refuses_a_trail_that_was_cut(tmp_path: Path) -> None:
    """A trail that does not end where its head says stops the start."""
    (tmp_path / "audit.jsonl").write_bytes(b"")
    (tmp_path / "audit.jsonl.head").write_text('{"seq":5,"mac":"' + "0" * 64 + '"}\n')
    code, said = await ended(await start(configured(tmp_path)))
    assert code == 2
    assert "audit.path" in said
    assert "Traceback" not in said


async def test_it_refuses_a_port_that_is_taken(tmp_path: Path) -> None:
    """A port that somebody else has is a fault of the configuration."""
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        config = configured(tmp_path, listen={"host": "127.0.0.1", "port": port})
        code, said = await ended(await start(config))
    assert code == 2
    assert "listen.port" in said
    assert "Traceback" not in said
