"""A request that lives long is in the trail before it ends."""

import signal
from pathlib import Path
from typing import Any

import pytest

from hubgate.proxy.audit import chain
from hubgate.proxy.audit.long_requests import _BATCH, INTERVAL, MIN_AGE, LongRequests
from hubgate.proxy.audit.outcomes import outcomes
from hubgate.proxy.audit.writer import GROUP_SECONDS
from hubgate.proxy.auth.authorization import Access
from hubgate.proxy.context import RequestContext
from hubgate.wire.keys import load_proxy_keys
from hubgate.wire.repo import RepoRef
from tests.fakes.answers import Stream
from tests.fakes.clock import START
from tests.fakes.identity import identity
from tests.fakes.process import ProxyProcess
from tests.fakes.raw import RawClient, request
from tests.fakes.running_proxy import ALICE, BASE, CHAT, Edge, eventually
from tests.fakes.trail import writing

ACCESS = Access(RepoRef.parse(f"demo/tiny@{'a' * 40}"), None)
SENT = request(
    "POST", CHAT, [("Authorization", f"Bearer {ALICE}"), ("X-Request-Id", "a-stream")],
    b'{"model":"%s","messages":[],"stream":true}' % BASE.encode(),
)  # fmt: skip
SHARED = ("client", "endpoint", "user", "token_name", "fingerprint", "sub", "model", "repo", "sha", "base")
ALIKE = (*SHARED, "decision", "upstream", "stream")


def lived(seconds: float, access: Access | None = ACCESS) -> RequestContext:
    """A request that began so long ago."""
    one = RequestContext("req-1", "127.0.0.1")
    one.started -= seconds
    one.identity, one.model, one.access, one.upstream = identity(), "demo/tiny", access, "gpu-0"
    return one


def recorded(folder: Path, *sweeps: list[RequestContext], leaving: tuple[RequestContext, ...] = ()) -> int:
    """How many records come of sweeps, before each of which these requests begin."""
    path = folder / "audit.jsonl"
    with writing(path) as audit:
        watched = LongRequests(audit, lambda: START)
        for begun in sweeps:
            for one in begun:
                watched.enter(one)
            for one in leaving:
                watched.leave(one)
            while watched.sweep():
                pass
    return len(list(chain.records(path)))


def test_it_is_there_within_a_second() -> None:
    """The age, the time between two sweeps and that until a group is written make less than a second."""
    assert MIN_AGE + INTERVAL + GROUP_SECONDS < 1


def test_a_request_is_recorded_once_it_is_old_enough(tmp_path: Path) -> None:
    """A granted request has one line, however often it is looked at; a young one has none."""
    assert recorded(tmp_path, [lived(5), lived(0)], [], []) == 1


def test_a_request_that_is_not_granted_is_not_recorded(tmp_path: Path) -> None:
    """Who waits for the Hub, or sends a body slowly, was granted nothing, and holds up nobody's line."""
    assert recorded(tmp_path, [lived(9, access=None), lived(5)], []) == 1


def test_a_request_that_is_granted_late_is_recorded_then(tmp_path: Path) -> None:
    """A grant that took long is recorded by the next sweep."""
    late = lived(9, access=None)
    with writing(tmp_path / "audit.jsonl") as audit:
        watched = LongRequests(audit, lambda: START)
        watched.enter(late)
        assert not watched.sweep()
        late.access = ACCESS
        watched.sweep()
    (record,) = chain.records(tmp_path / "audit.jsonl")
    assert record["repo"] == "demo/tiny"


def test_a_request_that_ended_is_forgotten(tmp_path: Path) -> None:
    """A request that is over has its own line, and none after it."""
    ended = lived(5)
    assert recorded(tmp_path, [ended, lived(5)], leaving=(ended,)) == 1


def test_a_crowd_does_not_hold_the_loop(tmp_path: Path) -> None:
    """However many are due at once, one turn of the loop writes a bounded number of them."""
    crowd = [lived(5) for _ in range(2 * _BATCH + 1)]
    path = tmp_path / "audit.jsonl"
    with writing(path) as audit:
        watched = LongRequests(audit, lambda: START)
        for one in crowd:
            watched.enter(one)
        assert [watched.sweep() for _ in range(4)] == [True, True, False, False]
    assert len(list(chain.records(path))) == len(crowd)


async def test_a_stream_has_two_lines(edge: Edge) -> None:
    """One when it has lived a while, one when it ends: the same request, told in the same words."""
    stream = Stream()
    edge.engine.then(stream)
    async with RawClient.connect(edge.port) as caller:
        await caller.send(SENT)
        (begun,) = await edge.records(1, "request.granted")
        assert await edge.records(0) == []
        stream.finish()
        assert (await caller.answer()).complete
    (ended,) = await edge.records(1)
    assert begun["request_id"] == ended["request_id"] == "a-stream"
    assert {name: begun[name] for name in ALIKE} == {name: ended[name] for name in ALIKE}
    assert (begun["decision"], begun["upstream"], begun["stream"]) == ("granted", "gpu-0", True)
    assert f"{begun['repo']}@{begun['sha']}" == edge.at(BASE)
    assert "status" not in begun
    assert len(await edge.records(1, "request.granted")) == 1


async def test_what_a_killed_proxy_was_doing_is_in_its_trail(tmp_path: Path) -> None:
    """SIGKILL in the middle of a stream: the trail names it, is whole, and the next proxy goes on with it."""
    path = tmp_path / "audit.jsonl"
    for killed in (1, 2):
        async with ProxyProcess.start(tmp_path) as proxy, RawClient.connect(proxy.port) as caller:
            proxy.engine.then(Stream())
            await caller.send(SENT)

            async def told(count: int = killed) -> bool:
                verdict = chain.verify(path, key(tmp_path))
                return (verdict.records, verdict.head.seq, verdict.faults) == (count, count, ())

            await eventually(told)
            proxy.process.send_signal(signal.SIGKILL)
            assert await proxy.process.wait() == -signal.SIGKILL
        assert chain.verify(path, key(tmp_path)).faults == ()
    assert [(record["event"], record["user"]) for record in chain.records(path)] == [
        ("request.granted", "alice")
    ] * 2
    assert [record["reason"] for record in outcomes(chain.records(path))] == ["unfinished"] * 2


def key(folder: Path) -> bytes:
    """The key of the trail."""
    (file,) = folder.rglob("hubgate_proxy.key")
    return load_proxy_keys(file).derive("audit")


def line(event: str, number: str = "req-1", sub: str = "alice", **more: Any) -> dict[str, Any]:
    return {"event": event, "request_id": number, "sub": sub, **more}


GRANTED, DONE = line("request.granted"), line("request.done", reason="ok")
OTHERS_DONE = line("request.done", sub="bob", reason="ok")


@pytest.mark.parametrize(
    ("records", "reasons"),
    [
        ([GRANTED, DONE], ["ok"]),
        ([GRANTED], ["unfinished"]),
        ([DONE], ["ok"]),
        ([GRANTED, line("adapter.loaded"), DONE], ["ok"]),
        ([GRANTED, line("auth.denied", reason="model_gated")], ["model_gated"]),  # revoked during a load
        ([GRANTED, GRANTED, DONE], ["ok", "unfinished"]),
        ([GRANTED, DONE, GRANTED], ["ok", "unfinished"]),
        ([GRANTED, OTHERS_DONE], ["ok", "unfinished"]),
        ([line("auth.denied", sub="", reason="invalid_api_key")], ["invalid_api_key"]),
    ],
)
def test_each_request_has_one_outcome(records: list[dict[str, Any]], reasons: list[str]) -> None:
    """A request with two lines is one request; one without an end is told as unfinished."""
    assert [record["reason"] for record in outcomes(records)] == reasons
