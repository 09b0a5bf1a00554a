"""One proxy and several backends of one base: who gets what, and what becomes of it when one goes."""

import asyncio
from pathlib import Path
from typing import Any

import yaml

from hubgate.proxy.settings import ProxySettings
from hubgate.runtime.config import load
from hubgate.wire.control_api import EngineQueue
from tests.fakes.answers import Stream, dies
from tests.fakes.running_proxy import BASE, PRIVATE, Edge, eventually

THREE = ("gpu-0", "gpu-1", "gpu-2")


async def all_up(edge: Edge) -> None:
    """Wait until the proxy knows every backend."""

    async def known() -> bool:
        return await edge.metric("hubgate_upstream_up") == len(edge.backends)

    await eventually(known)


def counts(edge: Edge) -> list[int]:
    return [len(engine.requests) for engine in edge.engines]


def reload(edge: Edge, upstreams: list[dict[str, Any]]) -> None:
    settings = yaml.safe_load(edge.config.read_text())
    edge.config.write_text(yaml.safe_dump({**settings, "upstreams": upstreams}))
    edge.proxy.reloader.reload(lambda: load(ProxySettings, edge.config))


async def test_backends_of_one_base_share_its_load(tmp_path: Path) -> None:
    """One request after another goes around; by weight, where the configuration says so."""
    async with Edge.start(tmp_path, backends=THREE) as edge:
        await all_up(edge)
        for _ in range(30):
            assert (await edge.chat()).status == 200
        assert max(counts(edge)) <= 1.25 * 10
        entries = yaml.safe_load(edge.config.read_text())["upstreams"]
        reload(edge, [{**entries[0], "weight": 300}, *entries[1:]])
        await edge.backend.greeted(2)
        before = counts(edge)
        for _ in range(50):
            assert (await edge.chat()).status == 200
        taken = [now - then for now, then in zip(counts(edge), before, strict=True)]
        assert 26 <= taken[0] <= 34


async def test_a_backend_that_drains_by_its_word_or_ours_gets_nothing_new(tmp_path: Path) -> None:
    """Its streams go on to their end; a reload that is faulty changes nothing."""
    async with Edge.start(tmp_path, backends=("gpu-0", "gpu-1")) as edge:
        await all_up(edge)
        entries = yaml.safe_load(edge.config.read_text())["upstreams"]
        streams = [Stream(), Stream()]
        for engine, stream in zip(edge.engines, streams, strict=True):
            engine.then(stream)
        asked = [asyncio.create_task(edge.chat(stream=True)) for _ in streams]
        for engine in edge.engines:
            await engine.received(1)
        edge.backend.draining = True
        await edge.backend.greeted(2)
        assert [(await edge.chat()).status for _ in range(6)] == [200] * 6
        assert counts(edge) == [1, 7]
        edge.backend.draining = False
        await edge.backend.greeted(2)
        reload(edge, [{**entries[0], "public_key_file": "/nowhere"}])
        reload(edge, entries[:1])
        assert [(await edge.chat()).status for _ in range(6)] == [200] * 6
        assert counts(edge) == [7, 7]
        for stream in streams:
            stream.finish()
        answers = await asyncio.gather(*asked)
        assert all(one.status == 200 and b"[DONE]" in one.body for one in answers)
        reload(edge, entries)
        await edge.backends[1].greeted(2)
        assert [(await edge.chat()).status for _ in range(8)] == [200] * 8
        assert counts(edge)[1] > 7


async def test_a_request_that_nobody_took_is_sent_to_another_backend(tmp_path: Path) -> None:
    """An engine that refuses connections costs no request, and then is left alone for a pause."""
    async with Edge.start(tmp_path, backends=("gpu-0", "gpu-1")) as edge:
        await all_up(edge)
        await edge.engine.down()
        assert [(await edge.chat()).status for _ in range(12)] == [200] * 12
        assert counts(edge) == [0, 12]


async def test_a_request_that_an_engine_took_is_never_sent_again(tmp_path: Path) -> None:
    """The body may have been acted upon: its caller is told, and others are spared after some in a row."""
    async with Edge.start(tmp_path, backends=("gpu-0", "gpu-1")) as edge:
        await all_up(edge)
        edge.engine.always(dies())
        statuses = [(await edge.chat()).status for _ in range(20)]
        assert statuses.count(502) == counts(edge)[0] <= 4
        assert sum(counts(edge)) == 20
        assert await edge.metric("hubgate_upstream_pauses_total", upstream="gpu-0") == 1


async def test_a_load_is_asked_of_another_backend_if_the_first_is_gone(tmp_path: Path) -> None:
    """Nothing was accepted by a control API that does not answer."""
    async with Edge.start(tmp_path, backends=("gpu-0", "gpu-1")) as edge:
        await all_up(edge)
        for backend in edge.backends:
            backend.tell, honest = (lambda _: b""), backend.tell
            answer = await edge.chat(PRIVATE)
            backend.tell = honest
            assert answer.status == 200
            await backend.greeted(2)
            for hosted in (one for each in edge.backends for one in each.hosted):
                hosted.adapters.clear()
            await backend.greeted(2)


async def test_a_longer_queue_turns_requests_away(tmp_path: Path) -> None:
    """What a backend tells of its engine's gate counts from the next hello on."""
    async with Edge.start(tmp_path, backends=("gpu-0", "gpu-1")) as edge:
        await all_up(edge)
        edge.backend.hosted[0].queue = EngineQueue(seats=8, waiting=50)
        await edge.backend.greeted(2)
        assert [(await edge.chat(BASE)).status for _ in range(10)] == [200] * 10
        assert counts(edge) == [0, 10]
