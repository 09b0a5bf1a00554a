"""`hubgate block` and `unblock` against real admin ports: what is typed, what is told, exit codes."""

import asyncio
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from hubgate.cli import main
from hubgate.proxy.blocks.client import local_url
from hubgate.proxy.settings import Admin
from tests.cases import each
from tests.cli.conftest import configured
from tests.fakes.running_proxy import ALICE, BOB, Edge
from tests.proxy.blocks.conftest import KEY, guarded, key_file

CANARY = "hf_canary4711canary4711"


def run(*arguments: str | Path) -> Result:
    """What an operator gets who types this."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


async def typed(edge: Edge, *arguments: str) -> Result:
    """The command against this proxy, which goes on meanwhile."""
    where = ("--admin", edge.admin_url, "--key-file", str(edge.settings.admin.key_file))
    return await asyncio.to_thread(run, *arguments, *where)


async def test_out_and_in_again(tmp_path: Path) -> None:
    """What was done, on which proxy, and how long it holds."""
    async with Edge.start(tmp_path, guarded(tmp_path)) as edge:
        done = await typed(edge, "block", "Bob", "--reason", "runaway job")
        assert (done.exit_code, done.output) == (
            0,
            f"{edge.admin_url}: bob: locked out, on this proxy alone\n",
        )
        assert (await edge.chat(token=BOB)).code == "caller_not_allowed"
        shown = await typed(edge, "block", "--list")
        assert shown.exit_code == 0
        for words in ("1 locked out", "bob", "lifted", "admin@127.0.0.1", "runaway job"):
            assert words in shown.output
        done = await typed(edge, "unblock", "bob")
        assert (done.exit_code, "bob: let in again" in done.output) == (0, True)
        assert (await edge.chat(token=BOB)).status == 200
        shown = await typed(edge, "block", "--list")
        assert shown.output == f"{edge.admin_url}: 0 locked out\n"


async def test_several_for_a_time(tmp_path: Path) -> None:
    """Each is told with the end of its time."""
    async with Edge.start(tmp_path, guarded(tmp_path)) as edge:
        done = await typed(edge, "block", "bob", "acme", "0123456789abcdef", "key:ci", "--for", "90m")
        assert done.exit_code == 0
        assert done.output.count("locked out until 20") == 4
        assert (await edge.chat(token=ALICE)).code == "caller_not_allowed"
        back = await typed(edge, "unblock", "acme", "nobody")
        assert back.exit_code == 1  # of one of them there was nothing to lift
        assert "acme: let in again" in back.output
        assert "nobody: nobody is not in this list" in back.output
        assert (await edge.chat(token=ALICE)).status == 200


async def test_every_proxy_without_redis(tmp_path: Path) -> None:
    """Each one is named; one that cannot be reached is told, and hinders none of the others."""
    async with Edge.start(tmp_path, guarded(tmp_path)) as first, first.twin() as second:
        done = await typed(
            second, "block", "bob", "--admin", "http://127.0.0.1:1", "--admin", first.admin_url
        )
        assert done.exit_code == 1
        assert "http://127.0.0.1:1: bob: cannot be asked: Connection refused" in done.output
        for edge in (first, second):
            assert f"{edge.admin_url}: bob: locked out" in done.output
            assert (await edge.chat(token=BOB)).code == "caller_not_allowed"


async def test_the_configuration_says_where(tmp_path: Path) -> None:
    """With `--config` neither the port nor the key need be typed."""
    async with Edge.start(tmp_path, guarded(tmp_path)) as edge:
        values = yaml.safe_load(edge.config.read_text())
        values["admin"]["port"] = edge.proxy.admin_port
        copy = tmp_path / "copy.yaml"
        copy.write_text(yaml.safe_dump(values))
        done = await asyncio.to_thread(run, "block", "bob", "--config", copy)
        assert (done.exit_code, "bob: locked out" in done.output) == (0, True)
        assert (await edge.chat(token=BOB)).code == "caller_not_allowed"


async def test_another_key(tmp_path: Path) -> None:
    """Is refused by the proxy, and told by the command."""
    other = tmp_path / "other.key"
    other.write_text("another-key-0123456789-0123456789-0123")
    other.chmod(0o600)
    async with Edge.start(tmp_path, guarded(tmp_path)) as edge:
        words = ("--admin", edge.admin_url, "--key-file", str(other))
        for command in (("block", "bob"), ("unblock", "bob"), ("block", "--list")):
            done = await asyncio.to_thread(run, *command, *words)
            assert (done.exit_code, "not the key in this proxy's admin.key_file" in done.output) == (1, True)
        assert (await edge.chat(token=BOB)).status == 200


async def test_a_fault_of_the_proxy(tmp_path: Path) -> None:
    """In force, but not as it was asked for: told, with exit code 1."""
    async with Edge.start(tmp_path, guarded(tmp_path)) as edge:
        (tmp_path / "audit.jsonl.blocks.new").mkdir()
        done = await typed(edge, "block", "bob")
        assert (done.exit_code, "a restart would forget it" in done.output) == (1, True)
        assert (await edge.chat(token=BOB)).code == "caller_not_allowed"
        (tmp_path / "audit.jsonl.blocks.new").rmdir()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", b"hello\r\n"])
async def test_something_else_listens_there(tmp_path: Path, answer: bytes) -> None:
    """Is told, and no traceback."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        where = ("--admin", f"http://127.0.0.1:{port}", "--key-file", str(key_file(tmp_path)))
        done = await asyncio.to_thread(run, "block", "bob", *where)
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    assert KEY not in done.output


@each(
    "arguments",
    [("block", CANARY), ("block", "bob", CANARY), ("unblock", CANARY), ("block", f"key:{CANARY}")],
)
def test_a_token_is_not_repeated(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Who types one by mistake reads how to lock it out instead; nobody is asked anything."""
    done = run(*arguments, "--admin", "http://127.0.0.1:1", "--key-file", key_file(tmp_path))
    assert done.exit_code == 2
    assert "hubgate fingerprint" in done.output
    assert "canary" not in done.output


@each(
    ("arguments", "told"),
    [
        (("block",), "Name whom to lock out"),
        (("block", "bob", "--list"), "Name whom to lock out"),
        (("unblock",), "Missing argument"),
        (("block", "a b"), "must be the name or the id of a Hub user"),
        (("block", "bob", "--for", "0s"), "a number and a unit"),
        (("block", "bob", "--for", "1"), "a number and a unit"),
        (("block", "bob", "--for", "-1h"), "a number and a unit"),
        (("block", "bob", "--for", "1.5h"), "a number and a unit"),
        (("block", "bob", "--for", "4000d"), "ten years"),
        (("block", "bob", "--for", CANARY), "a number and a unit"),
        (("block", "bob", "--reason", "a\nb"), "printable"),
        (("block", "bob", "--reason", CANARY), "looks like a token"),
        (("block", "bob", "--admin", "127.0.0.1:8081"), "http://host:port"),
        (("block", "bob", "--admin", "https://a:1"), "http://host:port"),
        (("block", "bob", "--admin", "http://u:p@a:1"), "http://host:port"),
        (("block", "bob", "--admin", "http://a:99999"), "http://host:port"),
        (("block", "bob", "--admin", "http://a"), "http://host:port"),
        (("block", "bob"), "--config FILE, or --admin URL with --key-file FILE"),
        (("block", "bob", "--admin", "http://a:1"), "--config FILE, or --admin URL with --key-file FILE"),
        (("block", "bob", "--admin", "http://a:1", "--key-file", "/nowhere"), "openssl rand"),
        (("block", "bob", "--config", "/nowhere"), "No such file"),
    ],
)
def test_what_is_typed_wrong(arguments: tuple[str, ...], told: str) -> None:
    """Exit code 2, and what to type instead."""
    done = run(*arguments)
    assert (done.exit_code, " ".join(told.split()) in " ".join(done.output.split())) == (2, True), done.output
    assert "canary" not in done.output


def test_a_configuration_without_a_key(tmp_path: Path) -> None:
    """Is told what it lacks."""
    done = run("block", "bob", "--config", configured(tmp_path))
    assert (done.exit_code, "admin.key_file" in done.output) == (2, True)


@each(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8081"),
        ("0.0.0.0", "http://127.0.0.1:8081"),
        ("", "http://127.0.0.1:8081"),
        ("::", "http://[::1]:8081"),
        ("fd00::1", "http://[fd00::1]:8081"),
        ("proxy-0.internal", "http://proxy-0.internal:8081"),
    ],
)
def test_where_a_local_proxy_is_asked(host: str, url: str) -> None:
    """An address that means all of them is none to connect to."""
    assert local_url(Admin(host=host)) == url


@pytest.mark.parametrize("command", ["block", "unblock"])
def test_help_has_lines_to_copy(command: str) -> None:
    """Each on a line of its own."""
    shown = run(command, "--help")
    assert shown.exit_code == 0
    assert f"\n  hubgate {command} mallory --config proxy.yaml" in shown.output
