"""`hubgate probe`: a healthcheck that costs nothing beside what serves."""

import asyncio
import os
import subprocess
import sys

import pytest

from hubgate import cli_probe

ENTRY = "import sys; sys.argv[1:] = {}; from hubgate.cli_entry import main; main()"


async def answering(answer: bytes) -> tuple[asyncio.Server, str, list[bytes]]:
    """A server that says the same to everybody; with its URL, and what it was asked."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nready\n", 0, ""),
        (b"HTTP/1.1 503 Service Unavailable\r\nX: y\r\n\r\nno upstream is up\n", 1, "503: no upstream is up"),
        (b"HTTP/1.0 503 No\r\n\r\n\x1b[31mred\xff\nmore", 1, "503: �[31mred�"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 1, "204: "),
        (b"SSH-2.0-OpenSSH_9.2\r\n", 1, "no answer: that is no HTTP"),
        (b"", 1, "no answer: that is no HTTP"),
        (b"HTTP/1.1 two hundred", 1, "no answer: "),
    ],
)
async def test_it_says_what_was_answered(
    answer: bytes, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """200 is 0 and silent; anything else is 1, with the reason that was given."""
    server, url, asked = await answering(answer)
    async with server:
        assert await asyncio.to_thread(cli_probe.run, f"{url}/readyz") == code
    assert asked[0].startswith(b"GET /readyz HTTP/1.0\r\nHost: 127.0.0.1:")
    error = capsys.readouterr().err
    assert error.startswith(f"{url}/readyz: {said}") if code else error == ""


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    """A port where nobody listens is 1, in words."""
    assert cli_probe.run("http://127.0.0.1:1/livez") == 1
    assert "no answer: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "url", ["https://x/", "x", "", "http://", "http://x:y/", "http://x:8 0/", "http://x/\r\nEvil: yes"]
)
def test_what_is_no_url(url: str) -> None:
    """Only plain HTTP is asked, and nothing is smuggled into the request."""
    assert cli_probe.run(url) == 2


def entered(arguments: list[str], more: str = "") -> subprocess.CompletedProcess[str]:
    """What the installed command does with these arguments, and then what `more` prints."""
    code = ENTRY.format(repr(arguments))
    code = f"import atexit; atexit.register(lambda: print({more})); {code}" if more else code
    return subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False, env=dict(os.environ)
    )


def test_it_imports_next_to_nothing() -> None:
    """Neither click nor any library: a healthcheck runs every few seconds beside what serves."""
    run = entered(["probe", "http://127.0.0.1:1/livez"], "*__import__('sys').modules")
    assert run.returncode == 1
    found = set(run.stdout.split())
    ours = {name for name in found if name.startswith("hubgate")}
    assert ours - {"hubgate.interpreted"} == {"hubgate", "hubgate.cli_entry", "hubgate.cli_probe"}
    assert found.isdisjoint({"click", "http.client", "asyncio", "ssl"})


@pytest.mark.parametrize("arguments", [["--version"], ["probe", "--help"], ["--help"]])
def test_everything_else_goes_on(arguments: list[str]) -> None:
    """The command is the same as ever, and lists the probe."""
    run = entered(arguments)
    assert (run.returncode, run.stderr) == (0, "")
    assert "probe" in run.stdout or arguments == ["--version"]


def test_where_only_the_proxy_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the proxy's image: asked for a backend, it says so in words."""
    from hubgate import cli, cli_entry

    def missing() -> None:
        raise ModuleNotFoundError("No module named 'hubgate.backend'", name="hubgate.backend")

    monkeypatch.setattr(cli, "main", missing)
    monkeypatch.setattr(sys, "argv", ["hubgate", "backend"])
    with pytest.raises(SystemExit, match="only the proxy is installed here"):
        cli_entry.main()


def test_a_missing_library_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another module that is missing is a fault of the installation, and shown whole."""
    from hubgate import cli, cli_entry

    def missing() -> None:
        raise ModuleNotFoundError("No module named 'msgspec'", name="msgspec")

    monkeypatch.setattr(cli, "main", missing)
    monkeypatch.setattr(sys, "argv", ["hubgate", "proxy"])
    with pytest.raises(ModuleNotFoundError):
        cli_entry.main()
