"""Lock-outs by command on running proxies: requests, what is under way, restarts, local keys."""

import asyncio
import hashlib
import json
import stat
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from hubgate.proxy.app import Clocks
from hubgate.runtime.config import ConfigError
from tests.cases import each
from tests.fakes.answers import Stream, completion, head, silent
from tests.fakes.backend import Held
from tests.fakes.clock import Clock
from tests.fakes.engine import Connection, Received
from tests.fakes.raw import RawClient, request
from tests.fakes.running_proxy import ALICE, BASE, BOB, CHAT, MESSAGES, PUBLIC, Edge, eventually
from tests.proxy.blocks.conftest import block, command, guarded
from tests.proxy.conftest import StartEdge

KEY = "local-key-of-ci-0123456789"
EVENT = b'"finish_reason":null}]}\n\n'  # how each one ends


def chat(token: str = BOB, model: str = BASE, **fields: Any) -> bytes:
    """The bytes of a request."""
    body = json.dumps({"model": model, "messages": MESSAGES, **fields}).encode()
    return request("POST", CHAT, [("Authorization", f"Bearer {token}")], body)


@asynccontextmanager
async def sent(edge: Edge, data: bytes, engine: int = 1) -> AsyncIterator[RawClient]:
    """A caller's connection with a request that is with the engine, which has got so many in all."""
    async with RawClient.connect(edge.port) as client:
        await client.send(data)
        await edge.engine.received(engine)
        yield client


async def test_a_user_is_locked_out_and_let_in(start_edge: StartEdge, tmp_path: Path) -> None:
    """From the next request on, nobody else is hurt, and the trail tells of both."""
    edge = await start_edge(guarded(tmp_path))
    assert (await edge.chat(token=BOB)).status == 200
    answer = await block(edge, "Bob", reason="runaway job")
    assert answer["block"]["who"] == "bob"
    assert not answer["shared"]
    refused = await edge.chat(token=BOB)
    assert (refused.status, refused.code) == (403, "caller_not_allowed")
    assert "runaway" not in refused.raw.decode()
    assert (await edge.chat(token=ALICE)).status == 200
    assert [one["who"] for one in (await command(edge, "GET", "/blocks"))[1]["blocks"]] == ["bob"]
    assert (await command(edge, "DELETE", "/blocks/BOB"))[0] == 200
    assert (await edge.chat(token=BOB)).status == 200
    added, lifted = await edge.records(2, "block.added", "block.lifted")
    assert (added["who"], added["reason"], added["by"]) == ("bob", "runaway job", "admin@127.0.0.1")
    assert (lifted["who"], lifted["by"]) == ("bob", "admin@127.0.0.1")
    assert edge.verify().faults == ()


async def test_all_members_of_an_organization(start_edge: StartEdge, tmp_path: Path) -> None:
    """Alice is a member of acme, bob is not."""
    edge = await start_edge(guarded(tmp_path))
    await block(edge, "acme")
    assert (await edge.chat(token=ALICE)).code == "caller_not_allowed"
    assert (await edge.chat(token=BOB)).status == 200


async def test_one_token_by_its_fingerprint(start_edge: StartEdge, tmp_path: Path) -> None:
    """The audit's is enough."""
    edge = await start_edge(guarded(tmp_path))
    await edge.chat(token=BOB)
    (record,) = await edge.records(1, "request.done")
    await block(edge, record["fingerprint"])
    assert (await edge.chat(token=BOB)).code == "caller_not_allowed"
    assert (await edge.chat(token=ALICE)).status == 200


async def test_a_local_key_by_its_name(
    start_edge: StartEdge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`key:` says that it is one; without it a user of that name is meant, and the answer says so."""
    monkeypatch.setenv("HF_TOKEN", ALICE)
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    keys = [{"name": "Nightly", "sha256": digest, "token": "service", "models": ["demo/*"]}]
    edge = await start_edge(guarded(tmp_path, keys=keys))
    assert "key:nightly" in (await block(edge, "nightly"))["advice"]
    assert (await edge.chat(token=KEY)).status == 200
    await block(edge, "key:Nightly")
    assert (await edge.chat(token=KEY)).code == "caller_not_allowed"


async def test_a_stream_under_way_ends(start_edge: StartEdge, tmp_path: Path) -> None:
    """With an error event and no last chunk; the engine stops, the trail has the reason, others go on."""
    edge = await start_edge(guarded(tmp_path))
    bobs, alices = Stream(count=9), Stream(count=3)
    edge.engine.then(bobs, alices)
    async with sent(edge, chat(BOB, stream=True)) as bob, sent(edge, chat(ALICE, stream=True), 2) as alice:
        bobs.step()
        await bob.until(EVENT)
        assert (await block(edge, "bob"))["ended"] == 1
        rest = await bob.rest()
        assert b'"code":"caller_not_allowed"' in rest
        assert not rest.endswith(b"0\r\n\r\n")
        alices.finish()
        assert await alice.until(b"0\r\n\r\n")
    ended, whole = sorted(await edge.records(2, "request.done"), key=lambda record: record["user"] == "alice")
    assert (ended["user"], ended["status"], ended["reason"]) == ("bob", 200, "caller_not_allowed")
    assert (whole["user"], whole["reason"]) == ("alice", "ok")
    await edge.engine.until(lambda: len(edge.engine.connections) == 1)  # alice's, which is kept
    assert await edge.metric("hubgate_in_flight_requests") == 0


async def test_an_answer_that_has_not_begun_is_a_refusal(start_edge: StartEdge, tmp_path: Path) -> None:
    """Who waits for the engine gets 403, on a connection that serves on, also what was sent behind it."""
    edge = await start_edge(guarded(tmp_path))
    edge.engine.then(silent())
    async with sent(edge, chat() + chat()) as client:
        await block(edge, "bob")
        for _ in range(2):
            refused = await client.answer()
            assert (refused.status, refused.code) == (403, "caller_not_allowed")
        await command(edge, "DELETE", "/blocks/bob")
        await client.send(chat())
        assert (await client.answer()).status == 200
    assert len(edge.engine.requests) == 2


async def test_an_answer_of_known_length_is_cut(start_edge: StartEdge, tmp_path: Path) -> None:
    """Nothing of ours goes into it, and it cannot look complete."""
    edge = await start_edge(guarded(tmp_path))

    async def half(_: Received, connection: Connection) -> None:
        connection.send(
            head(200, [("Content-Type", "application/json"), ("Content-Length", "500")]) + b'{"id"'
        )
        await connection.left.wait()

    edge.engine.then(half)
    async with sent(edge, chat()) as client:
        assert (await client.until(b'{"id"')).endswith(b'{"id"')
        await block(edge, "bob")
        assert await client.rest() == b""
    (record,) = await edge.records(1, "request.done")
    assert (record["status"], record["reason"]) == (200, "caller_not_allowed")


async def test_a_body_that_is_still_coming(start_edge: StartEdge, tmp_path: Path) -> None:
    """Whose body is waited for is refused at once, and the connection ends: the rest is not worth reading."""
    edge = await start_edge(guarded(tmp_path))
    whole = chat()
    async with RawClient.connect(edge.port) as client:
        await client.send(whole[:-5])

        async def known() -> bool:
            return await edge.metric("hubgate_authentications_total", result="ok") == 1

        await eventually(known)
        assert (await block(edge, "bob"))["ended"] == 1
        refused = await client.answer()
        assert (refused.status, refused.code) == (403, "caller_not_allowed")
    assert edge.engine.requests == []


@each("beats", [False, True])
async def test_a_load_that_is_waited_for(tmp_path: Path, beats: bool) -> None:
    """Before the first heartbeat it is a refusal with a status, after it an event."""
    folder = tmp_path / str(beats)
    folder.mkdir()
    settings = guarded(folder, cold_start={"heartbeat_after": 0.01 if beats else 60})
    async with Edge.start(folder, settings) as edge:
        held = Held(edge.backend.make_warm)
        edge.backend.then(held)
        async with RawClient.connect(edge.port) as client:
            await client.send(chat(model=PUBLIC, stream=True))
            await edge.backend.until(lambda: len(edge.backend.asked) == 1)
            if beats:
                await client.until(b": hubgate")
            assert (await block(edge, "bob"))["ended"] == 1
            seen = await client.rest() if beats else (await client.answer()).raw
        held.release()
        assert (b"403" in seen.split(b"\r\n")[0]) is not beats
        assert b'"code":"caller_not_allowed"' in seen
        assert not seen.endswith(b"0\r\n\r\n")
        assert edge.engine.requests == []


async def test_a_caller_who_leaves_as_they_are_locked_out(start_edge: StartEdge, tmp_path: Path) -> None:
    """Nothing is answered to nobody, and everything is given back."""
    edge = await start_edge(guarded(tmp_path))
    edge.engine.then(silent(), silent())
    async with sent(edge, chat()) as first, sent(edge, chat(), 2) as second:
        first.leave()
        second.leave()
        await asyncio.gather(block(edge, "bob"), block(edge, "bob"), block(edge, "bob"))
    await edge.records(2, "request.done")
    assert await edge.metric("hubgate_in_flight_requests") == 0
    await command(edge, "DELETE", "/blocks/bob")
    edge.engine.always(completion())
    assert (await edge.chat(token=BOB)).status == 200


async def test_a_lock_out_has_an_end(start_edge: StartEdge, tmp_path: Path) -> None:
    """Then the caller gets in, the list is empty, and the trail says that nobody lifted it."""
    later = Clock(0)
    edge = await start_edge(guarded(tmp_path), clocks=Clocks(now=lambda: time.time() + later()))
    told = (await block(edge, "bob", seconds=3600))["block"]
    assert told["until"] == told["since"] + 3600
    later.advance(3000)
    assert (await edge.ask("GET", "/v1/models", BOB)).code == "caller_not_allowed"
    later.advance(600)
    assert (await edge.ask("GET", "/v1/models", BOB)).status == 200
    assert (await command(edge, "GET", "/blocks"))[1]["blocks"] == []
    (record,) = await edge.records(1, "block.expired")
    assert record["who"] == "bob"
    assert "by" not in record


async def test_a_restart_lets_nobody_in(tmp_path: Path) -> None:
    """What was locked out still is when the proxy listens again; only its owner may read the list."""
    async with Edge.start(tmp_path, guarded(tmp_path)) as edge:
        await block(edge, "bob", reason="why")
        path = edge.settings.audit.path.with_name("audit.jsonl.blocks")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        await edge.stop()
        async with edge.twin(audit={"path": str(edge.settings.audit.path)}) as again:
            assert (await again.chat(token=BOB)).code == "caller_not_allowed"
            assert (await again.chat(token=ALICE)).status == 200
            (listed,) = (await command(again, "GET", "/blocks"))[1]["blocks"]
            assert (listed["who"], listed["reason"]) == ("bob", "why")
            assert len(await again.records(1, "block.added")) == 1


@each("content", [b"", b"[]", b'{"blocks":[{"who":"bob"}]}', b"\xff"])
async def test_a_list_that_cannot_be_read_stops_the_start(tmp_path: Path, content: bytes) -> None:
    """It might lock somebody out, so nobody is let in by its damage."""
    (tmp_path / "audit.jsonl.blocks").write_bytes(content)
    with pytest.raises(ConfigError, match="is no list of lock-outs; move it away"):
        async with Edge.start(tmp_path, guarded(tmp_path)):
            pass


async def test_without_a_disk_it_is_in_force_all_the_same(start_edge: StartEdge, tmp_path: Path) -> None:
    """The command says that a restart would forget it; it is written as soon as that works."""
    edge = await start_edge(guarded(tmp_path))
    scratch = tmp_path / "audit.jsonl.blocks.new"
    scratch.mkdir()  # nothing can be written there
    status, answer = await command(edge, "POST", "/blocks", {"who": "bob"})
    assert status == 503
    assert "in force, but its file cannot be written" in answer["fault"]
    assert (await edge.chat(token=BOB)).code == "caller_not_allowed"
    scratch.rmdir()

    async def written() -> bool:
        return (tmp_path / "audit.jsonl.blocks").exists()

    await eventually(written)
    assert (await edge.chat(token=BOB)).code == "caller_not_allowed"
