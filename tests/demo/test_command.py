"""The demo Hub as a program."""

import asyncio
import json
import signal
from pathlib import Path

import aiohttp
import pytest
from click.testing import CliRunner

from hubgate.demo.hub import main
from hubgate.runtime import child_python


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_serves_until_it_is_told_to_stop(
    number: signal.Signals, tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    """The program prints where it serves, logs, and ends with 0 on a signal while a request hangs."""
    log, repos = tmp_path / "log.jsonl", tmp_path / "repos"
    arguments = [
        "-m",
        "hubgate.demo.hub",
        "--port",
        "0",
        "--files-port",
        "0",
        "--log",
        str(log),
        "--repos",
        str(repos),
    ]
    program = await asyncio.create_subprocess_exec(
        *child_python.COMMAND, *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert program.stdout is not None
    words = (await program.stdout.readline()).decode().replace(",", "").replace(":  ", " ").split()
    hub, files = (word.rstrip(":") for word in words if word.startswith("http"))
    async with http.get(f"{hub}/api/models/demo/public-lora/auth-check") as answer:
        assert answer.status == 200
    async with http.post(f"{files}/_demo/down", json={"mode": "hang"}) as answer:
        assert answer.status == 200
    hanging = asyncio.create_task(http.get(f"{hub}/api/whoami-v2"))
    async with http.get(f"{files}/_demo/log") as answer:
        assert [entry["path"] for entry in await answer.json()] == ["/api/models/demo/public-lora/auth-check"]
    program.send_signal(number)
    assert await program.wait() == 0
    (await asyncio.gather(hanging, return_exceptions=True))
    assert json.loads(log.read_text().splitlines()[0])["status"] == 200
    assert (repos / "demo/tiny-llama/first/model.safetensors").is_file()


def test_help_teaches() -> None:
    """--help shows how to use the server, its callers and its switches."""
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    for word in ("HF_ENDPOINT", "hf_demo_alice", "/_demo/down", "--files-port"):
        assert word in result.output


async def test_port_in_use_is_said_plainly() -> None:
    """A port that is taken ends the program with 1 and one line."""
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        arguments = ["-m", "hubgate.demo.hub", "--port", str(port), "--files-port", "0"]
        program = await asyncio.create_subprocess_exec(
            *child_python.COMMAND, *arguments, stderr=asyncio.subprocess.PIPE
        )
        _, said = await program.communicate()
    assert program.returncode == 1
    assert said.startswith(b"Error: ")
    assert said.count(b"\n") == 1
