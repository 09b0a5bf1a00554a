"""Engines start, fail, make room and end; with fake ones that behave badly on demand."""

import asyncio
import os
import signal
from pathlib import Path

import aiohttp
import msgspec
import pytest
import structlog

from hubgate.backend.engines.supervisor import LONGEST_BACKOFF, Penalty
from hubgate.backend.processes.reaper import session_members
from hubgate.demo import weights
from hubgate.demo.hub import DemoHub
from hubgate.wire.control_api import Event, Evicted, LoadFailed, Ready
from tests.backend.engines.test_gpus import FakeGpus
from tests.backend.harness import BASE, Running, running
from tests.fakes.running_proxy import eventually


def sessions(tmp_path: Path) -> set[int]:
    """The sessions of the engines of this test, by their environment."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(tmp_path).encode() in (process / "environ").read_bytes():
                found.add(os.getsid(int(process.name)))
        except OSError:
            continue
    return found - {os.getsid(0)}


def _second(backend: Running) -> str:
    backend.hub.state.add_repo("demo/second", weights.tiny_llama("second"))
    return backend.sha("demo/second")


async def test_an_engine_that_ignores_sigterm_is_gone_all_the_same(
    tmp_path: Path, hub: DemoHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its children, when the backend ends."""
    monkeypatch.setattr("hubgate.backend.engines.lifecycle.GRACE", 0.3)
    engines = {"vllm_args": {"ignore-sigterm": True, "child": True}}
    async with running(tmp_path, hub, engines=engines) as backend:
        await backend.ready(backend.sha(BASE))
        (session,) = sessions(tmp_path)
        assert len(session_members(session)) == 3
    assert not session_members(session)


async def test_an_engine_that_ends_at_once_failed(tmp_path: Path, hub: DemoHub) -> None:
    """The caller is told, the next one is kept back for a while, and nothing is left."""
    async with running(tmp_path, hub, engines={"vllm_args": {"exit": 3}}) as backend:
        first = await backend.failed(backend.sha(BASE))
        second = await backend.failed(backend.sha(BASE))
        assert (await backend.hello()).engines == ()
        assert 'hubgate_engines{state="failed"} 1.0' in await backend.metrics()
        assert 'hubgate_engine_ends_total{reason="not_started"} 1.0' in await backend.metrics()
        assert 'hubgate_cold_starts_total{kind="base",result="failed"} 1.0' in await backend.metrics()
    assert (first.code, second.code) == ("engine_failed", "engine_failed")
    assert first.message.endswith("did not start: it ended by itself, with status 3")
    assert second.retry_after is not None
    assert 1 <= second.retry_after <= 2
    assert str(tmp_path) not in first.message


async def test_the_log_says_what_an_engine_died_of(tmp_path: Path, hub: DemoHub) -> None:
    """The first cause, however much was printed after it; callers are not told."""
    with structlog.testing.capture_logs() as logs:
        async with running(tmp_path, hub, engines={"vllm_args": {"raises": True}}) as backend:
            failed = await backend.failed(backend.sha(BASE))
    (told,) = [entry for entry in logs if entry["event"] == "engine.first_cause"]
    assert told["cause"].startswith("ValueError: No memory for cache blocks.")
    assert (told["log_level"], told["base"]) == ("error", backend.sha(BASE))
    assert "memory" not in failed.message


async def test_healthy_is_not_ready(tmp_path: Path, hub: DemoHub) -> None:
    """An engine that answers /health and cannot generate is no engine."""
    async with running(tmp_path, hub, engines={"vllm_args": {"no-first-token": True}}) as backend:
        assert (await backend.failed(backend.sha(BASE))).code == "engine_failed"
        assert not sessions(tmp_path) - {0}


async def test_a_model_that_only_pools_is_ready(tmp_path: Path, hub: DemoHub) -> None:
    """It has no token to give; what it can do is asked of the engine."""
    async with running(tmp_path, hub, engines={"vllm_args": {"pooling": True}}) as backend:
        assert (await backend.ready(backend.sha(BASE))).engine.state == "ready"


async def test_an_engine_that_never_comes_up_is_given_up(tmp_path: Path, hub: DemoHub) -> None:
    """After `start_timeout`, and not before."""
    engines = {"vllm_args": {"never-healthy": True}, "start_timeout": 0.8}
    async with running(tmp_path, hub, engines=engines) as backend:
        asked = asyncio.create_task(backend.failed(backend.sha(BASE)))
        await backend.until_state("starting")
        failed = await asked
    assert failed.code == "engine_failed"
    assert failed.message.endswith("it was not ready after 0.8 s")


async def test_an_adapter_that_an_engine_refuses_is_told(tmp_path: Path, hub: DemoHub) -> None:
    """The engine's own words stay in the log."""
    async with running(tmp_path, hub, engines={"vllm_args": {"no-adapters": True}}) as backend:
        failed = await backend.failed(backend.sha(BASE), backend.sha("demo/public-lora"))
        assert failed.code == "engine_failed"
        assert (await backend.hello()).engines[0].adapters == ()


async def test_a_killed_engine_is_seen_and_started_anew(tmp_path: Path, hub: DemoHub) -> None:
    """Another boot, without the adapters of the first."""
    async with running(tmp_path, hub) as backend:
        base, adapter = backend.sha(BASE), backend.sha("demo/public-lora")
        first = await backend.ready(base, adapter)
        (session,) = sessions(tmp_path)
        program = max(session_members(session))
        os.kill(program, signal.SIGKILL)
        await backend.until_state("absent")
        failed = await backend.failed(base, adapter)
        assert (failed.code, bool(failed.retry_after)) == ("engine_failed", True)
        assert 'hubgate_engine_ends_total{reason="crashed"} 1.0' in await backend.metrics()
        await asyncio.sleep(1.1)
        second = await backend.ready(base, adapter)
    assert second.engine.boot != first.engine.boot
    assert second.loaded


async def test_a_preloaded_model_stays_and_comes_back_by_itself(
    tmp_path: Path, hub: DemoHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It makes no room for others, and nobody has to ask for it."""
    monkeypatch.setenv("HF_TOKEN", hub.token("service"))
    async with running(tmp_path, hub, engines={"preload": [{"repo": BASE}]}) as backend:
        boot = (await backend.until_state("ready")).engines[0].boot
        assert (await backend.failed(_second(backend))).code == "no_capacity"
        os.kill(max(session_members(sessions(tmp_path).pop())), signal.SIGKILL)
        await backend.until_state("absent")
        assert (await backend.until_state("ready")).engines[0].boot != boot


async def test_an_idle_engine_makes_room_for_another_base(tmp_path: Path, hub: DemoHub) -> None:
    """One slot: the first is drained and gone before the second starts."""
    async with running(tmp_path, hub) as backend:
        second = _second(backend)
        await backend.ready(backend.sha(BASE))
        ready = await backend.ready(second)
        assert ready.started
        assert ready.evicted == (Evicted(repo=backend.sha(BASE), kind="base"),)
        assert [engine.base for engine in (await backend.hello()).engines] == [second]
        assert (await backend.use(ready.engine, second))[0] == 200
        assert len(sessions(tmp_path)) == 1


async def test_a_busy_engine_does_not_make_room(tmp_path: Path, hub: DemoHub) -> None:
    """Whoever is being answered is answered to the end; the other waits, and is told their place."""
    async with running(tmp_path, hub) as backend:
        base, second = backend.sha(BASE), _second(backend)
        ready = await backend.ready(base)
        scoped = await backend.scoped(second)
        async with backend.busy(ready.engine, base) as held, backend.asked(scoped) as answer:
            while b'"place":1' not in await answer.content.readline():
                assert not answer.content.at_eof()
            (engine,) = (await backend.hello()).engines
            assert (engine.id, engine.boot) == (ready.engine.id, ready.engine.boot)
            held.unlink()
            *_, last = (await answer.read()).splitlines()
        assert isinstance(msgspec.json.decode(last, type=Event), Ready)


async def test_a_fresh_engine_does_not_make_room(tmp_path: Path, hub: DemoHub) -> None:
    """Else two callers could keep a GPU busy with loading."""
    async with running(tmp_path, hub, engines={"min_residency": 60}) as backend:
        second = _second(backend)
        ready = await backend.ready(backend.sha(BASE))
        async with backend.asked(await backend.scoped(second)) as answer:
            while b'"place":1' not in await answer.content.readline():
                assert not answer.content.at_eof()
            (engine,) = (await backend.hello()).engines
            assert (engine.id, engine.boot) == (ready.engine.id, ready.engine.boot)


async def test_two_slots_run_two_engines(tmp_path: Path, hub: DemoHub) -> None:
    """Each with its own port, identity and grants."""
    async with running(tmp_path, hub, engines={"max_running": 2}) as backend:
        base, second = backend.sha(BASE), _second(backend)
        one, other = await asyncio.gather(backend.ready(base), backend.ready(second))
        assert one.engine.port != other.engine.port
        assert (await backend.use(one.engine, base))[0] == 200
        assert (await backend.use(other.engine, base))[0] == 421
        text = await backend.metrics()
    for engine in (one.engine, other.engine):
        assert f'vllm:num_requests_running{{hubgate_engine="{engine.id}"}} 0.0' in text


async def test_an_unused_engine_ends(tmp_path: Path, hub: DemoHub) -> None:
    """After `idle_timeout`, counted from its last request."""
    async with running(tmp_path, hub, engines={"idle_timeout": 0.2}) as backend:
        await backend.ready(backend.sha(BASE))
        await backend.until_state("absent")


async def test_the_end_of_a_backend_ends_the_loads(tmp_path: Path, hub: DemoHub) -> None:
    """A caller who waits is told, and nothing is left."""
    async with running(tmp_path, hub, engines={"vllm_args": {"never-healthy": True}}) as backend:
        waiting = asyncio.create_task(backend.ensure(backend.sha(BASE)))
        await backend.until_state("starting")
    outcome = await waiting
    assert isinstance(outcome, LoadFailed)
    assert "shutting down" in outcome.message
    assert not sessions(tmp_path)


async def test_a_hung_engine_is_ended_and_comes_back(tmp_path: Path, hub: DemoHub) -> None:
    """It answers /health and nothing else: its callers are cut off, the next one gets another boot."""
    async with running(tmp_path, hub, engines={"hang_timeout": 0.2}) as backend:
        base = backend.sha(BASE)
        first = await backend.ready(base)
        stuck = asyncio.create_task(backend.use(first.engine, base, prompt="hang"))
        await backend.until_state("absent")
        with pytest.raises(aiohttp.ClientError):
            await stuck
        assert (await backend.failed(base)).retry_after
        assert 'hubgate_engine_ends_total{reason="hung"} 1.0' in await backend.metrics()

        async def ready() -> bool:
            return not isinstance(await backend.ensure(base), LoadFailed)

        await eventually(ready)
        (second,) = (await backend.hello()).engines
    assert second.boot != first.engine.boot


async def test_an_engine_that_hangs_over_an_adapter_is_ended(tmp_path: Path, hub: DemoHub) -> None:
    """Nobody else asks it for anything; else its callers would wait for it one after the other."""
    engines = {"hang_timeout": 0.2, "vllm_args": {"stuck-adapters": True}}
    async with running(tmp_path, hub, engines=engines) as backend:
        failed = await backend.failed(backend.sha(BASE), backend.sha("demo/public-lora"))
        assert (failed.code, bool(failed.retry_after)) == ("engine_failed", True)
        await backend.until_state("absent")
        assert 'hubgate_engine_ends_total{reason="hung"} 1.0' in await backend.metrics()


async def test_a_busy_engine_is_not_taken_for_a_hung_one(tmp_path: Path, hub: DemoHub) -> None:
    """One answer that takes several times `hang_timeout`, with no byte of it before its end."""
    async with running(tmp_path, hub, engines={"hang_timeout": 0.8}) as backend:
        base = backend.sha(BASE)
        first = await backend.ready(base)
        assert (await backend.use(first.engine, base, max_tokens=250))[0] == 200
        (after,) = (await backend.hello()).engines
        assert msgspec.structs.replace(after, queue=None) == msgspec.structs.replace(first.engine, queue=None)


async def test_engines_get_the_devices_of_their_slots(tmp_path: Path, hub: DemoHub) -> None:
    """As CUDA_VISIBLE_DEVICES; the smallest slot that is large enough first."""
    engines = {"max_running": 2, "devices": ["2, 3", "1"]}
    async with running(tmp_path, hub, engines=engines) as backend:
        seen = []
        for base in (backend.sha(BASE), _second(backend)):
            ready = await backend.ready(base)
            _, answer = await backend.use(ready.engine, base)
            seen.append((answer["environ"]["CUDA_VISIBLE_DEVICES"], answer["environ"]["CUDA_DEVICE_ORDER"]))
    assert seen == [("1", "PCI_BUS_ID"), ("2,3", "PCI_BUS_ID")]


async def test_the_least_recently_used_engine_makes_room(tmp_path: Path, hub: DemoHub) -> None:
    """Of two idle ones, whichever was started first."""
    async with running(tmp_path, hub, engines={"max_running": 2}) as backend:
        base, second = backend.sha(BASE), _second(backend)
        hub.state.add_repo("demo/third", weights.tiny_llama("third"))
        ready = await backend.ready(base)
        await backend.ready(second)
        assert (await backend.use(ready.engine, base))[0] == 200
        await backend.ready(backend.sha("demo/third"))
        assert {engine.base for engine in (await backend.hello()).engines} == {
            base,
            backend.sha("demo/third"),
        }


async def test_an_engine_starts_when_its_gpus_memory_is_free(tmp_path: Path, hub: DemoHub) -> None:
    """Its caller waits; no process is there before."""
    gpus = FakeGpus(_0=10)
    async with running(tmp_path, hub, gpus, engines={"devices": ["0"]}) as backend:
        waiting = asyncio.create_task(backend.ready(backend.sha(BASE)))
        await backend.until_state("starting")
        assert not sessions(tmp_path)
        gpus.free["0"] = 80
        assert (await waiting).engine.state == "ready"


async def test_memory_that_does_not_become_free_is_said(
    tmp_path: Path, hub: DemoHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program may hold it; nothing was started."""
    monkeypatch.setattr("hubgate.backend.engines.gpus.PATIENCE", 0.1)
    async with running(tmp_path, hub, FakeGpus(_0=10), engines={"devices": ["0"]}) as backend:
        failed = await backend.failed(backend.sha(BASE))
    assert (failed.code, failed.retry_after) == ("engine_failed", 30)
    assert failed.message.endswith("the memory of its GPU did not become free")


async def test_a_backend_that_waits_for_memory_can_end(tmp_path: Path, hub: DemoHub) -> None:
    """At once, and whoever waited is told."""
    async with running(tmp_path, hub, FakeGpus(_0=10), engines={"devices": ["0"]}) as backend:
        waiting = asyncio.create_task(backend.ensure(backend.sha(BASE)))
        await backend.until_state("starting")
    assert isinstance(await waiting, LoadFailed)


async def test_engines_that_share_a_gpu_start_one_after_the_other(tmp_path: Path, hub: DemoHub) -> None:
    """The second waits until the first one has its memory, or never will."""
    engines = {
        "max_running": 2,
        "devices": ["0", "0"],
        "vllm_args": {"gpu-memory-utilization": 0.4},
        "on_demand": [{"repo": BASE, "vllm_args": {"never-healthy": True}}, "demo/*"],
    }
    async with running(tmp_path, hub, FakeGpus(_0=80), engines=engines) as backend:
        stuck = asyncio.create_task(backend.failed(backend.sha(BASE)))

        async def first() -> bool:
            return bool(sessions(tmp_path))

        await eventually(first)
        second = asyncio.create_task(backend.ready(_second(backend)))

        async def both() -> bool:
            return len((await backend.hello()).engines) == 2

        await eventually(both)
        (session,) = sessions(tmp_path)
        os.kill(max(session_members(session)), signal.SIGKILL)
        assert "SIGKILL, as when the machine's memory runs out" in (await stuck).message
        assert (await second).engine.state == "ready"


def test_backoff_doubles_up_to_a_bound() -> None:
    """1, 2, 4, … seconds."""
    penalty, waits = Penalty(0, 0.0), []
    for _ in range(10):
        penalty = penalty.after(100.0)
        waits.append(penalty.until - 100.0)
    assert waits[:4] == [1, 2, 4, 8]
    assert waits[-1] == LONGEST_BACKOFF
