"""What stands in front of a proxy, as docs/deploy.md has it: nginx and HAProxy pass streams on at once."""

import asyncio
import os
import re
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from hubgate.proxy.settings import Request
from tests.backend.harness import free_ports
from tests.config.test_deploy_doc import config
from tests.fakes.answers import DONE, Stream, completion
from tests.fakes.backend import Held
from tests.fakes.certificates import Authority
from tests.fakes.engine import LOCAL, PATIENCE
from tests.fakes.running_proxy import ALICE, BASE, CHAT, MESSAGES, PUBLIC, Edge, eventually

SETTINGS = {
    "listen": {"host": LOCAL, "port": 0, "trusted_proxies": ["127.0.0.1/32"]},
    "cold_start": {"heartbeat_after": 0.05},
    "timeouts": {"drain": PATIENCE},
}
CALLER = "127.0.0.2"  # another address than that of what stands in front, which is trusted
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
AUTHORITY = Authority()
# Nothing but what everybody writes first. HTTP/1.0 to the proxy, and buffers of nginx' own.
PLAIN = "server { listen 443; location / { proxy_pass http://127.0.0.1:8080; } }"


@dataclass(frozen=True, slots=True)
class Front:
    """A caller of a server that stands in front of a proxy."""

    edge: Edge
    url: str
    session: aiohttp.ClientSession

    def post(self, model: str = BASE, *, stream: bool = True) -> Any:
        body = {"model": model, "messages": MESSAGES, "stream": stream}
        headers = {"Authorization": f"Bearer {ALICE}"}
        return self.session.post(self.url + CHAT, json=body, headers=headers)


Make = Callable[[Edge, int, Path], tuple[list[str], str]]
"""From a proxy, a port and a folder to a command, and the scheme that callers use."""


def nginx(block: str) -> Make:
    def make(edge: Edge, port: int, folder: Path) -> tuple[list[str], str]:
        files = AUTHORITY.issue(folder)
        text = block.replace("127.0.0.1:8080", f"{LOCAL}:{edge.port}")
        text = text.replace("listen 443", f"listen {LOCAL}:{port}")
        text = text.replace("/etc/ssl/llm.example.com.pem", files["cert_file"])
        text = text.replace("/etc/ssl/llm.example.com.key", files["key_file"])
        scratch = "".join(
            f"{kind}_temp_path {folder}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        path = folder / "nginx.conf"
        path.write_text(
            f"daemon off; master_process off; pid {folder}/pid; error_log stderr;\n"
            f"events {{}}\nhttp {{\naccess_log off;\n{scratch}{text}\n}}\n"
        )
        command = ["nginx", "-p", str(folder), "-c", str(path), "-e", "stderr"]
        return command, "https" if "ssl" in block else "http"

    return make


def haproxy(block: str) -> Make:
    def make(edge: Edge, port: int, folder: Path) -> tuple[list[str], str]:
        files = AUTHORITY.issue(folder)
        pem = folder / "both.pem"
        pem.write_bytes(b"".join(Path(files[name]).read_bytes() for name in ("cert_file", "key_file")))
        text = block.replace("127.0.0.1:8080", f"{LOCAL}:{edge.port}")
        text = text.replace("port 8081", f"port {edge.proxy.admin_port}").replace("inter 2s", "inter 20ms")
        text = text.replace("bind :443", f"bind {LOCAL}:{port}")
        path = folder / "haproxy.cfg"
        path.write_text(text.replace("/etc/ssl/llm.example.com.pem", str(pem)))
        return ["haproxy", "-db", "-f", str(path)], "https"

    return make


FRONTS = {
    "nginx with nothing but proxy_pass": nginx(PLAIN),
    "nginx": nginx(config("nginx")),
    "HAProxy": haproxy(config("haproxy")),
}


@asynccontextmanager
async def standing(edge: Edge, make: Make, folder: Path) -> AsyncIterator[Front]:
    """Start it, wait until it lets a request through, and end it."""
    port = free_ports(1)
    command, scheme = make(edge, port, folder)
    program = shutil.which(command[0], path=PATH)
    assert program is not None, f"{command[0]} is not installed: make debian"
    with (folder / "front.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(program, *command[1:], stdout=log, stderr=log)
    connector = aiohttp.TCPConnector(ssl=AUTHORITY.trusted(), local_addr=(CALLER, 0))
    async with aiohttp.ClientSession(connector=connector) as session:
        front = Front(edge, f"{scheme}://{LOCAL}:{port}", session)

        async def up() -> bool:
            assert process.returncode is None, (folder / "front.log").read_text()
            try:
                async with session.get(f"{front.url}/health") as answer:
                    return answer.status == 200
            except aiohttp.ClientError:
                return False

        try:
            await eventually(up)
            yield front
        finally:
            process.terminate()
            await process.wait()


@pytest.fixture(params=FRONTS)
async def front(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Front]:
    """Each of them, before a proxy of its own."""
    folder = tmp_path / "front"
    folder.mkdir()
    async with Edge.start(tmp_path, SETTINGS) as edge, standing(edge, FRONTS[request.param], folder) as one:
        yield one


async def first(answer: aiohttp.ClientResponse, mark: bytes) -> bytes:
    """Read until this has come."""
    seen = b""
    async with asyncio.timeout(PATIENCE):
        while mark not in seen:
            more = await answer.content.readany()
            assert more, seen
            seen += more
    return seen


async def test_events_come_one_by_one(front: Front) -> None:
    """The first event is there while the second one has not been generated, and so on to the end."""
    stream = Stream(count=3)
    front.edge.engine.then(stream)
    stream.step()  # the head of an answer, which `post` waits for, may come with its first event
    async with front.post() as answer:
        assert answer.status == 200
        await first(answer, b'"t0"')
        for text in (b'"t1"', b'"t2"'):
            stream.step()
            await first(answer, text)
        stream.finish()
        assert (await answer.read()).endswith(DONE)


async def test_heartbeats_arrive(front: Front) -> None:
    """The caller of a cold model hears while it is loaded that it goes on."""
    held = Held(front.edge.backend.make_warm)
    front.edge.backend.then(held)
    front.edge.engine.then(Stream(count=1).finish())
    async with front.post(PUBLIC) as answer:
        await first(answer, b": hubgate")
        await first(answer, b": hubgate")
        held.release()
        assert DONE in await answer.read()


async def test_the_proxy_knows_who_calls(front: Front, request: pytest.FixtureRequest) -> None:
    """What stands in front says where a caller is, and no caller can say something else.

    With nothing but proxy_pass nginx says nothing, and all callers are nginx; what they say is believed then.
    """
    front.edge.engine.then(completion())
    body = {"model": BASE, "messages": MESSAGES}
    headers = {"Authorization": f"Bearer {ALICE}", "X-Forwarded-For": "192.0.2.66"}
    async with front.session.post(front.url + CHAT, json=body, headers=headers) as answer:
        assert answer.status == 200
    (record,) = await front.edge.records(1, "request.done")
    assert record["client"] == ("192.0.2.66" if "nothing but" in request.node.name else CALLER)


async def test_haproxy_leaves_out_a_proxy_that_drains(tmp_path: Path) -> None:
    """Its check sees the drain; the stream that is under way goes on to its end."""
    folder = tmp_path / "front"
    folder.mkdir()
    async with Edge.start(tmp_path, SETTINGS) as edge, standing(edge, FRONTS["HAProxy"], folder) as front:
        stream = Stream(count=2)
        edge.engine.then(stream)
        stream.step()
        async with front.post() as answer:
            await first(answer, b'"t0"')
            stopping = asyncio.create_task(edge.stop())

            async def left_out() -> bool:
                async with front.session.get(f"{front.url}/health") as other:
                    return other.status == 503 and "draining" not in await other.text()

            await eventually(left_out)
            stream.finish()
            assert (await answer.read()).endswith(DONE)
        await stopping


def test_the_page_agrees_with_the_proxy() -> None:
    """Bodies as large as a proxy takes are let through."""
    (size,) = re.findall(r"client_max_body_size (\d+)m;", config("nginx"))
    assert int(size) * 1024 * 1024 == Request().max_body_bytes
