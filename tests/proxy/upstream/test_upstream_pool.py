"""What a proxy knows of its backends, and which one it leases."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_args
from unittest.mock import patch

import pytest
from structlog.testing import capture_logs

from hubgate.proxy.audit.writer import AuditWriter
from hubgate.proxy.auth.authorization import Access
from hubgate.proxy.auth.identity import Caller
from hubgate.proxy.context import RequestContext
from hubgate.proxy.errors import STATUS, Denied
from hubgate.proxy.http.request import Link, RawHead, ServerRequest
from hubgate.proxy.metrics.registry import Metrics
from hubgate.proxy.upstream import upstream_pool
from hubgate.proxy.upstream.cold_start import ColdLoader
from hubgate.proxy.upstream.control_client import ControlClient, ControlError
from hubgate.proxy.upstream.upstream_pool import Pool, Upstream, refusal, unreachable
from hubgate.wire.control_api import (
    PROTOCOL,
    EngineInfo,
    Event,
    FailureCode,
    Hello,
    LoadFailed,
    Progress,
    Ready,
)
from hubgate.wire.repo import RepoRef
from hubgate.wire.seal import sign_hello
from tests.cases import each
from tests.fakes import hostile_json
from tests.fakes.clock import Clock
from tests.fakes.engine import PATIENCE
from tests.fakes.identity import caller
from tests.fakes.running_proxy import Edge

BASE = RepoRef.parse("demo/tiny@" + "a" * 40)
LORA = RepoRef.parse("alice/lora@" + "b" * 40)
ON_BASE, ON_LORA = Access(BASE), Access(BASE, LORA)


def engine(number: int = 1, **changes: Any) -> EngineInfo:
    facts: dict[str, Any] = {"id": f"e-{number}", "boot": "b", "port": 8200 + number, "base": str(BASE)}
    return EngineInfo(**{**facts, "state": "ready", **changes})


def _inbound() -> ServerRequest:
    link = cast("Link", SimpleNamespace(write=None))  # nothing is answered here
    head = RawHead(method="POST", target="/", version="1.1", headers=(), peer="127.0.0.1", keep_alive=True)
    return ServerRequest(link, head)


class Told(ControlClient):
    """A control API that says what it is told to."""

    def __init__(self, *engines: EngineInfo) -> None:
        self.engines = engines
        self.down = False
        self.events: list[Event] = []
        self.sealed_for: list[str] = []

    async def hello(self) -> Hello:
        if self.down:
            raise ControlError("down")
        return Hello(protocol=PROTOCOL, name="gpu", boot="boot-1", nonce="n", engines=self.engines)

    async def ensure(
        self, access: Access, caller: Caller, boot: str, request_id: str
    ) -> AsyncGenerator[Event]:
        del access, caller, request_id
        self.sealed_for.append(boot)
        for event in self.events:
            yield event


async def known(*engines: EngineInfo, url: str = "http://gpu:8100") -> tuple[Upstream, Told]:
    """A backend that just told these engines."""
    told = Told(*engines)
    upstream = Upstream("gpu", url, told)
    await upstream.refresh()
    return upstream, told


def warm(upstream: Upstream, access: Access) -> EngineInfo | None:
    """The engine that a request would be sent to at once."""
    lease = Pool([upstream], Metrics()).lease(access)
    return None if isinstance(lease, Denied) else lease.engine


async def test_a_base_is_warm_on_a_ready_engine() -> None:
    """Only an engine that is ready, at that very commit, counts."""
    upstream, _ = await known(engine())
    assert warm(upstream, ON_BASE) == engine()
    assert warm(upstream, Access(BASE.at("c" * 40))) is None
    for state in ("absent", "downloading", "starting", "draining", "asleep", "stopping", "failed"):
        upstream, _ = await known(engine(state=state))
        assert warm(upstream, ON_BASE) is None


async def test_an_adapter_is_warm_where_it_is_held() -> None:
    """Of two engines with one base, the one that holds the adapter is found."""
    holder = engine(2, adapters=(str(LORA),))
    upstream, _ = await known(engine(1), holder)
    assert warm(upstream, ON_LORA) == holder
    assert warm(upstream, Access(BASE, LORA.at("c" * 40))) is None


@pytest.mark.parametrize(
    ("state", "runs"), [("starting", True), ("ready", True), ("asleep", True), ("stopping", False)]
)
async def test_a_base_runs_from_its_start_on(state: str, *, runs: bool) -> None:
    """An unpinned base stays on the commit that is running, about to, or asleep."""
    upstream, _ = await known(engine(state=state))
    assert upstream.running("demo/tiny") == ("a" * 40 if runs else None)
    assert upstream.running("demo/tin") is None


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://gpu:8100", ("gpu", 8201, "")),
        ("https://gpu", ("gpu", 8201, "gpu")),
        ("http://[::1]:8100", ("::1", 8201, "")),
        ("http://10.0.0.7:8100/x", ("10.0.0.7", 8201, "")),
    ],
)
async def test_the_host_is_the_proxys_to_know(url: str, address: tuple[str, int, str]) -> None:
    """Only the port is the backend's word; a certificate is for the backend's name, not for its host."""
    upstream, _ = await known(engine(), url=url)
    assert upstream.address(engine()) == address


async def test_a_backend_that_does_not_answer_is_forgotten() -> None:
    """When the hello fails the backend is down and nothing is warm there."""
    upstream, told = await known(engine())
    told.down = True
    with pytest.raises(ControlError):
        await upstream.refresh()
    assert not upstream.up
    assert warm(upstream, ON_BASE) is None
    told.down = False
    await upstream.refresh()
    assert warm(upstream, ON_BASE) is not None


async def test_many_who_ask_at_once_share_a_hello() -> None:
    """Who comes while one is under way waits for the next one, which tells of what is by then."""
    upstream, told = await known()
    asked = 0
    begun, go = asyncio.Event(), asyncio.Event()
    answer = told.hello

    async def slowly() -> Hello:
        nonlocal asked
        asked += 1
        if asked > 2:
            raise ControlError("one too many")
        hello = await answer()
        begun.set()
        await go.wait()
        return hello

    with patch.object(told, "hello", slowly):
        first = asyncio.create_task(upstream.refresh())
        await begun.wait()
        told.engines = (engine(),)
        others = [asyncio.create_task(upstream.refresh()) for _ in range(100)]
        await asyncio.sleep(0)
        others.pop().cancel()
        go.set()
        await asyncio.gather(first, *others)
    assert warm(upstream, ON_BASE) is not None
    assert asked == 2


async def test_a_hello_that_fails_is_told_to_all_who_wait_for_it() -> None:
    """And the next one is asked anew; where everybody left before, nothing is logged of it."""
    upstream, told = await known(engine())
    told.down = True
    found = await asyncio.gather(*[upstream.refresh() for _ in range(5)], return_exceptions=True)
    assert all(isinstance(one, ControlError) for one in found)
    left = [asyncio.create_task(upstream.refresh()) for _ in range(2)]
    await asyncio.sleep(0)
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    told.down = False
    await upstream.refresh()
    assert upstream.up


async def test_a_lost_engine_is_cold_until_told_anew() -> None:
    """What turned out wrong is not used again before the next hello."""
    upstream, _ = await known(engine())
    upstream.lost(engine())
    upstream.lost(engine())
    assert warm(upstream, ON_BASE) is None
    await upstream.refresh()
    assert warm(upstream, ON_BASE) is not None


async def test_ensure_learns_the_engine() -> None:
    """A load is asked for under the present boot, and the engine that it ends with is known as warm."""
    upstream, told = await known()
    held = engine(adapters=(str(LORA),))
    told.events = [Progress(stage="queued", repo=str(LORA)), Ready(engine=held)]
    events = [event async for event in upstream.ensure(ON_LORA, caller(), "req-1")]
    assert events == told.events
    upstream.found(held)
    assert told.sealed_for == ["boot-1"]
    assert warm(upstream, ON_LORA) == held


async def test_nothing_is_sealed_for_a_backend_that_is_down(tmp_path: Path) -> None:
    """A load begins with a fresh hello: without it there is no boot to seal a token for."""
    upstream, told = await known()
    told.down = True
    audit = AuditWriter(tmp_path / "audit.jsonl", b"k" * 32, Metrics(), required=True, now=Clock())
    audit.start()
    context, request = RequestContext("req-1", ""), _inbound()
    with pytest.raises(ControlError):
        await ColdLoader(audit, 10.0).load(context, request, caller(), ON_LORA, upstream)
    audit.close()
    assert told.sealed_for == []


async def test_only_backends_that_are_up_are_leased() -> None:
    """Among those that are up the warmest is leased; with none, the caller is told to come back."""

    def leased(pool: Pool) -> Upstream:
        lease = pool.lease(ON_LORA)
        assert not isinstance(lease, Denied)
        return pool.upstream(lease)

    warm_one, told = await known(engine(adapters=(str(LORA),)))
    cold = Upstream("other", "http://other", other := Told())
    pool = Pool([cold, warm_one], Metrics())
    assert leased(pool) is warm_one
    await cold.refresh()
    assert leased(pool) is warm_one
    assert (pool.ready, pool.running("demo/tiny")) == (True, "a" * 40)
    told.down = other.down = True
    for upstream in (warm_one, cold):
        with pytest.raises(ControlError):
            await upstream.refresh()
    denied = pool.lease(ON_LORA)
    assert isinstance(denied, Denied)
    assert (denied.code, denied.retry_after) == ("no_upstream", 5)
    assert (pool.ready, pool.running("demo/tiny")) == (False, None)


@pytest.mark.parametrize("code", get_args(FailureCode))
def test_every_failure_of_a_load_means_an_error(code: FailureCode) -> None:
    """Each way in which a load can fail is an error of the table, and a missing repo reads like any other."""
    denied = refusal(LoadFailed(code=code, message="why", repo="x/y", retry_after=3), "alice/lora")
    assert denied.code in STATUS
    if code == "not_found":
        assert denied.message == "The model alice/lora does not exist, or your token cannot read it."
    else:
        assert (denied.message, denied.retry_after) == ("why", 3)
    assert unreachable().status == 503


HOSTILE = {**hostile_json.DOCUMENTS, **hostile_json.beside(b'"protocol":1')}


@each("document", HOSTILE.values())
async def test_no_hello_ends_the_proxy(edge: Edge, document: bytes) -> None:
    """Whatever a backend signs it counts as down, no more; and it is up again as soon as it makes sense."""
    honest = edge.backend.tell
    said = sign_hello(document, edge.backend.ring.backend.signing).encode()
    edge.backend.tell = lambda _: said
    await edge.until_down()
    await edge.backend.greeted(2)
    assert not edge.proxy.background.done()
    edge.backend.tell = honest
    await edge.until_ready()


async def test_a_fault_of_ours_in_one_hello_leaves_the_others() -> None:
    """An exception that nobody foresaw is logged once, its backend is down, and the rest is polled on."""
    asked = asyncio.Event()

    class Broken(Told):
        async def hello(self) -> Hello:
            raise ZeroDivisionError

    class Asked(Told):
        count = 0

        async def hello(self) -> Hello:
            self.count += 1
            if self.count == 3:
                asked.set()
            return await super().hello()

    broken, good = Upstream("broken", "http://a", Broken()), Upstream("good", "http://b", Asked(engine()))
    with patch.object(upstream_pool, "POLL_SECONDS", 0.001), capture_logs() as logged:
        polling = asyncio.create_task(Pool([broken, good], Metrics()).poll())
        await asyncio.wait_for(asked.wait(), PATIENCE)
        assert (polling.done(), broken.up, good.up) == (False, False, True)
        polling.cancel()
        with suppress(asyncio.CancelledError):
            await polling
    assert [entry["event"] for entry in logged].count("hello failed") == 1
