"""`hubgate backend refresh`: preloaded models move to their present commit, and only then."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hubgate.backend import refresh
from hubgate.demo import weights
from hubgate.demo.hub import DemoHub
from hubgate.wire.control_api import GRANT_HEADER, Event, LoadFailed
from hubgate.wire.seal import control_grant
from tests.backend.harness import BASE, Running, running

OTHER = "demo/tiny-qwen"
PRELOADED: dict[str, Any] = {"preload": [{"repo": OTHER}], "max_running": 2}


@pytest.fixture
async def preloaded(tmp_path: Path, hub: DemoHub) -> AsyncIterator[Running]:
    """A backend that preloads the public base and runs it."""
    async with running(tmp_path, hub, engines=PRELOADED) as backend:
        await backend.until_state("ready")
        yield backend


async def _refresh(backend: Running, repo: str | None = None) -> tuple[int, list[str]]:
    """What the command exits with, and what it says; in a thread, as it is a program of its own."""
    said: list[str] = []
    code = await asyncio.to_thread(refresh.run, backend.settings, repo, said.append)
    return code, said


async def _engines(backend: Running) -> dict[str, str]:
    return {engine.base: engine.boot for engine in (await backend.hello()).engines}


async def test_a_model_that_has_moved_is_served_at_its_new_commit(preloaded: Running) -> None:
    """Fetched, drained and started anew; the old commit is not run any more, whoever asks for it."""
    before = preloaded.sha(OTHER)
    preloaded.hub.state.add_commit(OTHER, {"README.md": b"new"})
    after = preloaded.sha(OTHER)
    assert list(await _engines(preloaded)) == [before]
    code, said = await _refresh(preloaded)
    assert code == 0
    assert said[-1] == f"{after}: ready, in the place of {before}"
    assert [line for line in said if line.startswith(f"{after}: downloading")]
    assert list(await _engines(preloaded)) == [after]
    assert 'hubgate_engine_ends_total{reason="refresh"} 1.0' in await preloaded.metrics()


async def test_the_old_commit_is_refused_where_nothing_is_on_demand(tmp_path: Path, hub: DemoHub) -> None:
    """With a time: whoever asks again learns of the new one."""
    async with running(tmp_path, hub, engines={**PRELOADED, "on_demand": []}) as backend:
        await backend.until_state("ready")
        before = backend.sha(OTHER)
        hub.state.add_commit(OTHER, {"README.md": b"new"})
        assert (await _refresh(backend))[0] == 0
        failed = await backend.failed(before)
    assert (failed.code, failed.retry_after) == ("no_capacity", 5)


async def test_a_model_that_has_not_moved_goes_on(preloaded: Running) -> None:
    """A refresh costs nothing then, and nothing else is restarted."""
    before = await _engines(preloaded)
    code, said = await _refresh(preloaded, OTHER)
    assert code == 0
    assert "nothing to do" in said[-1]
    assert await _engines(preloaded) == before


async def test_requests_in_flight_are_answered_to_the_end(preloaded: Running) -> None:
    """The engine is drained, not killed."""
    before = preloaded.sha(OTHER)
    engine = (await preloaded.hello()).engines[0]
    preloaded.hub.state.add_commit(OTHER, {"README.md": b"new"})
    async with preloaded.busy(engine, before):
        refreshing = asyncio.create_task(_refresh(preloaded))
        await preloaded.until_state("draining")
    assert (await refreshing)[0] == 0


@pytest.mark.parametrize("when", ["resolving", "fetching"])
async def test_what_the_hub_does_not_give_changes_nothing(preloaded: Running, when: str) -> None:
    """The old commit is served on, and the command fails."""
    before = await _engines(preloaded)
    preloaded.hub.state.add_commit(OTHER, {"config.json": b'{"auto_map": {}}', "model.py": b"import os"})
    if when == "resolving":
        preloaded.hub.state.set_down("503")
    else:
        preloaded.hub.state.add_commit(OTHER, {"model.safetensors": None})
    code, said = await _refresh(preloaded)
    assert code == 1
    assert said[-1].startswith("failed: ")
    assert await _engines(preloaded) == before


async def test_an_engine_on_demand_ends_so_that_its_next_caller_brings_the_new_commit(
    preloaded: Running,
) -> None:
    """It has no commit of its own to move to: callers' tokens fetch it."""
    await preloaded.ready(preloaded.sha(BASE))
    code, said = await _refresh(preloaded, BASE)
    assert code == 0
    assert "has ended" in said[-1]
    assert list(await _engines(preloaded)) == [preloaded.sha(OTHER)]


async def test_a_model_that_is_not_here_is_said(preloaded: Running) -> None:
    """A typing error must not look like success."""
    code, said = await _refresh(preloaded, "demo/nothing")
    assert code == 1
    assert "neither preloaded nor running" in said[-1]


async def test_only_the_backends_own_key_refreshes(preloaded: Running) -> None:
    """A proxy may ask for models, the operator for a refresh, and neither for the other's."""
    boot = (await preloaded.hello()).boot
    ring = preloaded.keyring
    keys = {"proxy": ring.proxy.signing, "own": ring.backend.signing}
    answers = {}
    for who, key in keys.items():
        for path in ("/v1/refresh", "/v1/ensure"):
            grant, _ = control_grant(key, aud="gpu-0", boot=boot, now=time.time())
            url, headers = preloaded.url + path, {GRANT_HEADER: grant}
            async with preloaded.session.post(url, data=b"nonsense", headers=headers) as response:
                answers[who, path] = response.status
    assert answers == {
        ("proxy", "/v1/refresh"): 401,
        ("proxy", "/v1/ensure"): 400,
        ("own", "/v1/refresh"): 400,
        ("own", "/v1/ensure"): 401,
    }


async def test_a_backend_that_does_not_run_is_said(preloaded: Running) -> None:
    """With the address that was tried."""
    listen = preloaded.settings.listen.model_copy(update={"port": 9})
    said: list[str] = []
    elsewhere = preloaded.settings.model_copy(update={"listen": listen})
    assert await asyncio.to_thread(refresh.run, elsewhere, None, said.append) == 1
    assert "http://127.0.0.1:9 cannot be asked" in said[0]


async def test_a_reserved_slot_waits_for_the_preloaded_model(tmp_path: Path, hub: DemoHub) -> None:
    """While it cannot be fetched, or between two commits, nobody else takes its GPU."""
    hub.state.set_gated(OTHER, "manual")
    hub.state.add_repo("demo/second", weights.tiny_llama("second"))
    async with running(tmp_path, hub, engines={"preload": [{"repo": OTHER}]}) as backend:
        assert (await backend.failed(backend.sha("demo/second"))).code == "no_capacity"


async def test_who_waits_for_the_old_commit_does_not_bring_it_back(tmp_path: Path, hub: DemoHub) -> None:
    """Asked for while its engine is being drained: refused when that is gone."""
    engines = {"preload": [{"repo": OTHER}], "max_running": 2, "on_demand": []}
    async with running(tmp_path, hub, engines=engines) as backend:
        before = backend.sha(OTHER)
        engine = (await backend.until_state("ready")).engines[0]
        async with backend.busy(engine, before) as held:
            hub.state.add_commit(OTHER, {"README.md": b"new"})
            refreshing = asyncio.create_task(_refresh(backend))
            await backend.until_state("draining")
            async with backend.asked(await backend.scoped(before)) as answer:
                assert b"progress" in await answer.content.readline()
                held.unlink()
                *_, last = (await answer.read()).splitlines()
        failed = msgspec.json.decode(last, type=Event)
        assert isinstance(failed, LoadFailed)
        assert (failed.code, failed.retry_after) == ("no_capacity", 5)
        assert (await refreshing)[0] == 0
        assert list(await _engines(backend)) == [backend.sha(OTHER)]
