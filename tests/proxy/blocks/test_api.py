"""Commands on the admin port: who may give them, and what is no command."""

from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from hubgate.proxy.blocks.messages import MAX_BODY, MAX_SECONDS
from hubgate.runtime.config import ConfigError
from hubgate.runtime.operator_key import load_key
from hubgate.wire.keys import KeyFileError
from tests.cases import each
from tests.fakes.raw import ask, request
from tests.fakes.running_proxy import BOB, Edge, eventually
from tests.proxy.blocks.conftest import KEY, block, command, guarded, key_file
from tests.proxy.conftest import StartEdge

ROUTES = [("GET", "/blocks"), ("POST", "/blocks"), ("DELETE", "/blocks/bob")]
BODY = {"who": "bob"}


@pytest.fixture
async def admin(start_edge: StartEdge, tmp_path: Path) -> Edge:
    return await start_edge(guarded(tmp_path))


@each(("method", "path"), ROUTES)
@each(
    "authorization",
    [
        None,
        "",
        KEY,
        f"Basic {KEY}",
        "Bearer",
        "Bearer ",
        f"Bearer {KEY[:-1]}",
        f"Bearer {KEY}x",
        f"Bearer  {KEY}",
        f"Bearer {KEY.upper()}",
        "Bearer \u00e4" + KEY,
        f"Bearer {BOB}",
    ],
)
async def test_another_key(admin: Edge, method: str, path: str, authorization: str | None) -> None:
    """Does nothing and is told nothing."""
    body = BODY if method == "POST" else None
    status, answer = await command(admin, method, path, body, authorization)
    assert (status, answer) == (401, {"error": "not the key in this proxy's admin.key_file"})
    assert (await command(admin, "GET", "/blocks"))[1]["blocks"] == []


async def test_bytes_that_are_no_text(admin: Edge) -> None:
    """Are another key, and no fault of the server."""
    for name in (f"\xff{KEY}", f"{KEY}\xff", "\x80"):
        asked = request("GET", "/blocks", [("Authorization", f"Bearer {name}")])
        assert (await ask(admin.proxy.admin_port, asked)).status == 401


async def test_two_keys(admin: Edge) -> None:
    """Are none, whichever of them is right."""
    for pair in ([KEY, "x" * 40], ["x" * 40, KEY], [KEY, KEY]):
        headers = [("Authorization", f"Bearer {key}") for key in pair]
        async with (
            aiohttp.ClientSession() as session,
            session.get(admin.admin_url + "/blocks", headers=headers) as answer,
        ):
            assert answer.status == 401
            assert answer.headers["WWW-Authenticate"] == "Bearer"


@each(("method", "path"), ROUTES)
async def test_without_a_key_file(edge: Edge, method: str, path: str) -> None:
    """Nobody commands, and the answer says what to do."""
    status, answer = await command(edge, method, path, BODY if method == "POST" else None)
    assert status == 403
    assert "admin.key_file" in answer["error"]


async def test_probes_and_metrics_need_no_key(admin: Edge) -> None:
    """They stay as they are."""
    for path in ("/livez", "/readyz", "/metrics"):
        assert (await admin.admin(path))[0] == 200
    assert (await admin.ask("GET", "/blocks", BOB)).status == 404  # on the public port


@each(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"{}",
        b"\xff",
        b'{"who":"bob","who2":1}',
        {"who": 1},
        {"who": ""},
        {"who": "a b"},
        {"who": "bob", "seconds": 0},
        {"who": "bob", "seconds": -1},
        {"who": "bob", "seconds": "60"},
        {"who": "bob", "seconds": MAX_SECONDS + 1},
        b'{"who":"bob","seconds":1e999}',
        b'{"who":"bob","seconds":NaN}',
        {"who": "bob", "reason": "a\nb"},
        {"who": "bob", "reason": "\x1b[2J"},
        {"who": "bob", "reason": "x" * 201},
        {"who": "bob", "reason": "leaked hf_abcdefghijklmnop"},
        b"[" * 2000,
    ],
)
async def test_what_is_no_command(admin: Edge, body: Any) -> None:
    """Is told, locks out nobody, and no token is repeated."""
    status, answer = await command(admin, "POST", "/blocks", body)
    assert status == 400
    assert isinstance(answer["error"], str)
    assert "hf_abc" not in answer["error"]
    assert (await command(admin, "GET", "/blocks"))[1]["blocks"] == []


async def test_a_huge_body(admin: Edge) -> None:
    """Is not read; without the key not even looked at."""
    huge = msgspec.json.encode({"who": "bob", "reason": "x" * MAX_BODY})
    assert (await command(admin, "POST", "/blocks", huge))[0] == 413
    assert (await command(admin, "POST", "/blocks", huge, "Bearer no"))[0] == 401


@each("who", ["a%20b", "%2e%2e", "hf_secret", "a%0d%0ab", "%ff", "a" * 97])
async def test_what_is_no_name_to_lift(admin: Edge, who: str) -> None:
    """Is told."""
    status, answer = await command(admin, "DELETE", f"/blocks/{who}")
    assert status in (400, 404)
    assert "secret" not in str(answer)


async def test_somebody_who_is_not_locked_out(admin: Edge) -> None:
    """Cannot be let in; the configuration's own list is another one."""
    status, answer = await command(admin, "DELETE", "/blocks/bob")
    assert (status, "callers.block" in answer["error"]) == (404, True)


async def test_the_key_can_be_changed(admin: Edge, tmp_path: Path) -> None:
    """A new one in the file counts without a restart, and the old one no more."""
    new = "another-key-of-the-admin-port-0123456789"
    key_file(tmp_path).write_text(new)

    async def changed() -> bool:
        return (await command(admin, "GET", "/blocks", authorization=f"Bearer {new}"))[0] == 200

    await eventually(changed)
    assert (await command(admin, "GET", "/blocks"))[0] == 401


async def test_the_key_is_nowhere(admin: Edge, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither in the trail nor in the log."""
    await block(admin, "bob")
    await command(admin, "GET", "/blocks", authorization=f"Bearer {KEY}x")
    await admin.records(1, "block.added")
    assert KEY not in admin.settings.audit.path.read_text()
    assert KEY not in "".join(capfd.readouterr())


@each(
    ("content", "mode", "told"),
    [
        (b"", 0o600, "is empty"),
        (b"short", 0o600, "holds no key"),
        (b"x" * 31, 0o600, "holds no key"),
        (b"x" * 600, 0o600, "holds no key"),
        (b"x" * 20 + b" " + b"x" * 20, 0o600, "holds a space"),
        (b"x" * 40 + b"\n" + b"x" * 40, 0o600, "has several lines"),
        ("ä".encode() * 40, 0o600, "not ASCII"),
        (b'"' + b"x" * 40 + b'"', 0o600, "is in quotes"),
        (b"KEY=" + b"x" * 40, 0o600, "reads NAME=VALUE"),
        (b"x" * 40, 0o604, "everybody"),
        (b"x" * 40, 0o602, "everybody"),
        (None, 0o600, "No such file"),
    ],
)
def test_key_files_that_are_none(tmp_path: Path, content: bytes | None, mode: int, told: str) -> None:
    """Each fault is told with what to do, and no key is repeated."""
    path = tmp_path / "admin.key"
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_bytes(content)
        path.chmod(mode)
    with pytest.raises(KeyFileError, match=told) as raised:
        load_key(path)
    assert "xxxx" not in str(raised.value)


@each("mode", [0o600, 0o400, 0o640, 0o440])
def test_key_files(tmp_path: Path, mode: int) -> None:
    """A group may read it, as Kubernetes mounts secrets."""
    path = tmp_path / f"{mode:o}.key"
    path.write_text(f"  {KEY}\r\n")
    path.chmod(mode)
    assert load_key(path).reveal() == KEY


async def test_a_key_file_that_is_missing_stops_the_start(tmp_path: Path) -> None:
    """With its name in the settings."""
    settings = {"admin": {"port": 0, "key_file": str(tmp_path / "nowhere")}}
    with pytest.raises(ConfigError, match=r"admin\.key_file: .*nowhere: No such file.*openssl rand"):
        async with Edge.start(tmp_path, settings):
            pass
