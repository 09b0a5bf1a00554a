"""Engines that make room by sleeping: the same process is back in a moment, and nobody can tell."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hubgate.backend import refresh
from hubgate.backend.processes.reaper import session_members
from hubgate.backend.store import maintenance
from hubgate.demo import weights
from hubgate.demo.hub import DemoHub
from hubgate.wire.control_api import EngineInfo, Evicted, LoadFailed, Ready
from hubgate.wire.repo import RepoRef
from tests.backend.engines.test_gpus import FakeGpus
from tests.backend.engines.test_supervisor import sessions
from tests.backend.harness import BASE, Running, running
from tests.fakes.running_proxy import eventually

LORA = "demo/public-lora"


def _engines(**changes: Any) -> dict[str, Any]:
    """One device, one engine that may sleep; two that are awake at once would end each other."""
    switches = {"alone": True, **changes.pop("vllm_args", {})}
    least = {"max_asleep": 1, "min_residency": 0.000001, "devices": ["0"]}
    return {**least, "vllm_args": switches, **changes}


def _more(hub: DemoHub, *names: str) -> list[str]:
    """Further base models, `org/name@sha`."""
    for name in names:
        hub.state.add_repo(f"demo/{name}", weights.tiny_llama(name))
    return [f"demo/{name}@{hub.state.sha(f'demo/{name}')}" for name in names]


async def _states(backend: Running) -> dict[str, str]:
    return {engine.base: engine.state for engine in (await backend.hello()).engines}


async def _pid(backend: Running, engine: EngineInfo, model: str) -> int:
    status, answer = await backend.use(engine, model)
    assert status == 200
    return int(answer["pid"])


def _until(states: Callable[[], Awaitable[dict[str, str]]], wanted: dict[str, str]) -> Awaitable[None]:
    async def there() -> bool:
        return await states() == wanted

    return eventually(there)


async def test_two_bases_take_turns_and_keep_their_processes(tmp_path: Path, hub: DemoHub) -> None:
    """Same boot, port and process after each sleep; each has a port and a name of its own."""
    async with running(tmp_path, hub, engines=_engines()) as backend:
        bases = [backend.sha(BASE), *_more(hub, "second")]
        first: dict[str, tuple[EngineInfo, int]] = {}
        for turn in range(6):
            base, other = bases[turn % 2], bases[1 - turn % 2]
            ready = await backend.ready(base)
            assert ready.started
            assert ready.evicted == ((Evicted(repo=other, kind="base"),) if turn else ())
            # Its queue is known from the first time that the supervisor asks for it.
            now = msgspec.structs.replace(ready.engine, queue=None), await _pid(backend, ready.engine, base)
            assert now == first.setdefault(base, now)
        assert await _states(backend) == {bases[0]: "asleep", bases[1]: "ready"}
        (one, _), (two, _) = first.values()
        assert (one.port, one.id) != (two.port, two.id)
        assert len(sessions(tmp_path)) == 2
        text = await backend.metrics()
    for series in (
        'hubgate_engines{state="asleep"} 1.0',
        'hubgate_cold_starts_total{kind="base",result="ok"} 2.0',
        'hubgate_cold_starts_total{kind="wake",result="ok"} 4.0',
    ):
        assert series in text
    assert "hubgate_engine_ends_total{" not in text


async def test_nothing_reaches_an_engine_that_sleeps(tmp_path: Path, hub: DemoHub) -> None:
    """421, on which a proxy asks for the model anew; its adapters are gone and come back on demand."""
    async with running(tmp_path, hub, engines=_engines()) as backend:
        base, lora, (second,) = backend.sha(BASE), backend.sha(LORA), _more(hub, "second")
        loaded = await backend.ready(base, lora)
        await backend.ready(second)
        for model in (base, lora):
            assert (await backend.use(loaded.engine, model))[0] == 421
        assert {engine.adapters for engine in (await backend.hello()).engines} == {()}
        woken = await backend.ready(base)
        assert (await backend.use(loaded.engine, base))[0] == 200
        assert (await backend.use(loaded.engine, lora))[0] == 421
        again = await backend.ready(base, lora)
        assert (again.loaded, again.engine.adapters) == (True, (lora,))
        assert (await backend.use(loaded.engine, lora))[0] == 200
    assert woken.engine.boot == loaded.engine.boot


async def test_the_store_keeps_what_a_sleeper_needs(tmp_path: Path, hub: DemoHub) -> None:
    """Its base model; of its adapters nothing is left in it, so that they may go."""
    async with running(tmp_path, hub, engines=_engines()) as backend:
        base, lora = backend.sha(BASE), backend.sha(LORA)
        await backend.ready(base, lora)
        await backend.ready(*_more(hub, "second"))
        with maintenance.shelf_at(tmp_path / "store") as shelf:
            assert not maintenance.remove(shelf, RepoRef.parse(base))
            assert maintenance.remove(shelf, RepoRef.parse(lora))


async def test_the_sleeper_that_was_not_used_for_longest_ends(tmp_path: Path, hub: DemoHub) -> None:
    """It makes place for another sleeper, and whoever caused it is told."""
    async with running(tmp_path, hub, engines=_engines(max_asleep=2)) as backend:
        one, two, three, four = backend.sha(BASE), *_more(hub, "two", "three", "four")
        for base in (one, two, one, three):
            await backend.ready(base)
        assert await _states(backend) == {one: "asleep", two: "asleep", three: "ready"}
        last = await backend.ready(four)
        assert {gone.repo for gone in last.evicted} == {two, three}
        assert await _states(backend) == {one: "asleep", three: "asleep", four: "ready"}
        assert len(sessions(tmp_path)) == 3
        ports = [engine.port for engine in (await backend.hello()).engines]
    assert len(set(ports)) == 3
    assert set(ports) <= set(range(backend.settings.engines.first_port, min(ports) + 3))


async def test_what_does_not_wake_up_is_started_anew(tmp_path: Path, hub: DemoHub) -> None:
    """At once, and its caller hears nothing of it."""
    async with running(tmp_path, hub, engines=_engines(vllm_args={"no-wake": True})) as backend:
        base, (second,) = backend.sha(BASE), _more(hub, "second")
        before = await backend.ready(base)
        await backend.ready(second)
        after = await backend.ready(base)
        assert after.engine.boot != before.engine.boot
        assert (await backend.use(after.engine, base))[0] == 200
        assert await _states(backend) == {base: "ready", second: "asleep"}
        text = await backend.metrics()
    assert 'hubgate_engine_ends_total{reason="not_woken"} 1.0' in text
    assert 'hubgate_cold_starts_total{kind="wake",result="failed"} 1.0' in text


async def test_what_cannot_sleep_makes_room_by_its_end(tmp_path: Path, hub: DemoHub) -> None:
    """As if it had never been asked to."""
    async with running(tmp_path, hub, engines=_engines(vllm_args={"no-sleep": True})) as backend:
        await backend.ready(backend.sha(BASE))
        (second,) = _more(hub, "second")
        await backend.ready(second)
        assert await _states(backend) == {second: "ready"}
        assert 'hubgate_engine_ends_total{reason="room"} 1.0' in await backend.metrics()


async def test_a_sleeper_that_is_killed_is_gone(tmp_path: Path, hub: DemoHub) -> None:
    """Nothing of it is left, the one that is awake goes on, and the next caller starts it anew."""
    async with running(tmp_path, hub, engines=_engines()) as backend:
        base, (second,) = backend.sha(BASE), _more(hub, "second")
        before = await backend.ready(base)
        pid = await _pid(backend, before.engine, base)
        await backend.ready(second)
        os.kill(pid, signal.SIGKILL)
        await _until(lambda: _states(backend), {second: "ready"})
        assert len(sessions(tmp_path)) == 1

        async def back() -> bool:
            after = await backend.ensure(base)
            return isinstance(after, Ready) and after.engine.boot != before.engine.boot

        await eventually(back)
        assert 'hubgate_engine_ends_total{reason="crashed"} 1.0' in await backend.metrics()


async def test_an_unused_sleeper_ends(tmp_path: Path, hub: DemoHub) -> None:
    """After `idle_timeout` since its last request, like one that is awake, which does not sleep then."""
    async with running(tmp_path, hub, engines=_engines(idle_timeout=1.0)) as backend:
        await backend.ready(backend.sha(BASE))
        await backend.ready(*_more(hub, "second"))
        await backend.until_state("absent")
        assert 'hubgate_engine_ends_total{reason="idle"} 2.0' in await backend.metrics()


async def test_a_refresh_ends_a_sleeper(tmp_path: Path, hub: DemoHub) -> None:
    """Else it would come back at the old commit."""
    async with running(tmp_path, hub, engines=_engines()) as backend:
        (second,) = _more(hub, "second")
        await backend.ready(backend.sha(BASE))
        await backend.ready(second)
        said: list[str] = []
        assert await asyncio.to_thread(refresh.run, backend.settings, BASE, said.append) == 0
        assert "its engine has ended" in said[-1]
        assert await _states(backend) == {second: "ready"}


@pytest.mark.parametrize("ignores", [False, True])
async def test_the_end_of_a_backend_ends_sleepers(
    tmp_path: Path, hub: DemoHub, monkeypatch: pytest.MonkeyPatch, *, ignores: bool
) -> None:
    """With all their processes, whatever they think of SIGTERM."""
    monkeypatch.setattr("hubgate.backend.engines.lifecycle.GRACE", 0.3)
    switches = {"child": True, **({"ignore-sigterm": True} if ignores else {})}
    async with running(tmp_path, hub, engines=_engines(vllm_args=switches)) as backend:
        await backend.ready(backend.sha(BASE))
        await backend.ready(*_more(hub, "second"))
        found = sessions(tmp_path)
        assert len(found) == 2
    assert not [pid for session in found for pid in session_members(session)]


async def test_callers_of_two_bases_at_once_are_all_served(tmp_path: Path, hub: DemoHub) -> None:
    """One slot: nobody waits for ever, and no two engines are awake in it, or one of them would end."""
    async with running(tmp_path, hub, engines=_engines()) as backend:
        bases = [backend.sha(BASE), *_more(hub, "second")]

        async def call(base: str) -> bool:
            done = await backend.ensure(base)
            if isinstance(done, LoadFailed):  # the other one was not idle
                assert done.code == "no_capacity"
                return False
            return (await backend.use(done.engine, base))[0] == 200  # 421: it is the other's turn again

        async def caller(base: str) -> None:
            for _ in range(5):
                await eventually(lambda: call(base))

        async with asyncio.timeout(60):
            await asyncio.gather(*(caller(base) for base in bases * 2))
        assert "hubgate_engine_ends_total{" not in await backend.metrics()
        assert len(sessions(tmp_path)) == 2


async def test_a_sleeper_is_not_watched_for_hanging(
    tmp_path: Path, hub: DemoHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers nothing, and should not; once it is awake again it is watched again."""
    watched: list[str] = []

    async def watch(_client: object, model: str, *_: object) -> None:
        watched.append(model)
        try:
            await asyncio.Event().wait()
        finally:
            watched.remove(model)

    monkeypatch.setattr("hubgate.backend.engines.lifecycle.until_hung", watch)
    async with running(tmp_path, hub, engines=_engines()) as backend:
        base, (second,) = backend.sha(BASE), _more(hub, "second")
        for model in (base, second, base):
            await backend.ready(model)
            assert watched == [model]


async def test_waking_up_waits_for_the_memory_of_the_gpu(tmp_path: Path, hub: DemoHub) -> None:
    """As a start does; its caller is told that it is starting."""
    gpus = FakeGpus(_0=80)
    async with running(tmp_path, hub, gpus, engines=_engines()) as backend:
        base, (second,) = backend.sha(BASE), _more(hub, "second")
        before = await backend.ready(base)
        await backend.ready(second)
        gpus.free["0"] = 10
        waiting = asyncio.create_task(backend.post(await backend.scoped(base)))
        await _until(lambda: _states(backend), {base: "starting", second: "asleep"})
        assert (await backend.use(before.engine, base))[0] == 421
        gpus.free["0"] = 80
        _, events = await waiting
        assert events[-1].engine.boot == before.engine.boot
        assert {event.stage for event in events[:-1]} <= {"queued", "starting"}


async def test_a_sleeper_whose_slot_is_busy_is_started_elsewhere(tmp_path: Path, hub: DemoHub) -> None:
    """It cannot move, so it ends; while every slot is busy it sleeps on."""
    engines = _engines(max_running=2, devices=["0", "1"])
    async with running(tmp_path, hub, engines=engines) as backend:
        base, (two, three) = backend.sha(BASE), _more(hub, "two", "three")
        first = await backend.ready(base)
        awake = {two: await backend.ready(two), three: await backend.ready(three)}
        assert await _states(backend) == {base: "asleep", two: "ready", three: "ready"}
        async with backend.busy(awake[three].engine, three):
            async with backend.busy(awake[two].engine, two):
                async with backend.asked(await backend.scoped(base)) as answer:
                    while b'"place":1' not in await answer.content.readline():
                        assert not answer.content.at_eof()
                assert (await _states(backend))[base] == "asleep"
            again = await backend.ready(base)
            assert again.engine.boot != first.engine.boot
            assert await _states(backend) == {base: "ready", two: "asleep", three: "ready"}


async def test_without_the_setting_nothing_sleeps(tmp_path: Path, hub: DemoHub) -> None:
    """Room is made by an end, and vLLM is not asked for its sleep mode."""
    async with running(tmp_path, hub) as backend:
        await backend.ready(backend.sha(BASE))
        (second,) = _more(hub, "second")
        await backend.ready(second)
        assert await _states(backend) == {second: "ready"}
