"""Backends behind a DNS name: who is believed, and who is not."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml
from structlog.testing import capture_logs

from hubgate.proxy import preflight
from hubgate.proxy.settings import ProxySettings
from hubgate.proxy.upstream import discovery
from hubgate.proxy.upstream.discovery import load_public_keys
from hubgate.runtime.config import ConfigError, load
from hubgate.wire.keys import KeyFileError
from tests.fakes.keyring import Keyring
from tests.fakes.running_proxy import PRIVATE, Edge, eventually


def entry(edge: Edge, **changes: Any) -> dict[str, Any]:
    """The first backend, as it is found by its address."""
    backend = edge.backend
    found = {"dns": "127.0.0.1", "port": backend.port, "names": "gpu-*"}
    return {**found, "public_keys": str(backend.ring.backend_public), **changes}


def read(edge: Edge, *upstreams: Mapping[str, Any]) -> ProxySettings:
    settings = yaml.safe_load(edge.config.read_text())
    edge.config.write_text(yaml.safe_dump({**settings, "upstreams": list(upstreams)}))
    return load(ProxySettings, edge.config)


def reload(edge: Edge, *upstreams: Mapping[str, Any]) -> None:
    edge.proxy.reloader.reload(lambda: read(edge, *upstreams))


async def test_a_backend_is_named_by_its_hello(tmp_path: Path) -> None:
    """What it signs with a key of the set, a file or a folder, is served under its own name, cold or warm."""
    async with Edge.start(tmp_path) as edge:
        folder = tmp_path / "public"
        folder.mkdir()
        stranger = Keyring.make(tmp_path / "stranger").backend_public
        (folder / "a.pub").write_bytes(stranger.read_bytes())
        (folder / "b.pub").write_bytes(edge.backend.ring.backend_public.read_bytes())
        for public in (str(edge.backend.ring.backend_public), str(folder)):
            reload(edge, entry(edge, public_keys=public))
            await edge.until_ready()
            answer = await edge.chat(PRIVATE)
            assert answer.status == 200
            edge.backend.hosted[0].adapters.clear()
            await edge.backend.greeted(2)
        assert await edge.metric("hubgate_upstream_up", upstream="gpu-0") == 1
        assert edge.backend.asked[-1].aud == "gpu-0"
        assert (await edge.records(1, "request.done"))[-1]["upstream"] == "gpu-0"


async def test_nobody_else_is_believed(tmp_path: Path) -> None:
    """A name that does not fit, or a key that is not of the set: down, and no request goes there."""
    async with Edge.start(tmp_path) as edge:
        stranger = Keyring.make(tmp_path / "stranger").backend_public
        for wrong in ({"names": "cpu-*"}, {"public_keys": str(stranger)}):
            reload(edge, entry(edge, **wrong))
            await edge.backend.greeted(2)
            assert (await edge.chat()).status == 503
        assert edge.engine.requests == []


async def test_two_with_one_name_are_an_alarm(tmp_path: Path) -> None:
    """The one that was there first goes on alone; the log says it once, and a metric counts."""
    async with Edge.start(tmp_path) as edge:
        configured = yaml.safe_load(edge.config.read_text())["upstreams"]
        with capture_logs() as logged:
            reload(edge, *configured, entry(edge))

            async def alarmed() -> bool:
                return await edge.metric("hubgate_upstream_name_conflicts_total") >= 3

            await eventually(alarmed)
        assert [one["event"] for one in logged].count("two backends have one name") == 1
        assert (await edge.chat()).status == 200
        edge.proxy.reloader.reload(lambda: read(edge, entry(edge)))

        async def served() -> bool:  # from its next hello on
            return (await edge.chat()).status == 200

        await eventually(served)


async def test_what_dns_tells_is_followed(tmp_path: Path) -> None:
    """An address that goes gets nothing new; while nothing is told, what was known stays."""
    told: list[Any] = [{"127.0.0.1"}]

    async def resolve(_self: object, _entry: object) -> set[str] | None:
        known: set[str] | None = told[0]
        return known

    with patch.object(discovery.Discovery, "_resolve", resolve), patch.object(discovery, "EVERY", 0.02):
        async with Edge.start(tmp_path) as edge:
            reload(edge, entry(edge))
            await edge.until_ready()
            told[0] = None
            await edge.backend.greeted(3)
            assert (await edge.chat()).status == 200
            told[0] = set()
            await edge.until_down()
            assert (await edge.chat()).status == 503
            told[0] = {"127.0.0.1"}
            await edge.until_ready()


async def test_a_wrong_entry_is_named(tmp_path: Path) -> None:
    """Faults say where they are, without a word on kinds; a folder without keys is one."""
    async with Edge.start(tmp_path) as edge:
        for wrong, place in (
            ({"names": ""}, "upstreams.0.names"),
            ({"dns": "a b"}, "upstreams.0.dns"),
            ({"url": "http://x"}, "upstreams.0.url"),
        ):
            with pytest.raises(ConfigError) as refused:
                read(edge, entry(edge, **wrong))
            assert refused.value.faults[0].startswith(f"{place}:")
        settings = read(edge, entry(edge, public_keys=str(tmp_path / "nowhere")))
        with pytest.raises(ConfigError) as refused:
            preflight.check(settings)
        assert refused.value.faults[0].startswith("upstreams.0.public_keys:")
        (tmp_path / "empty").mkdir()
        with pytest.raises(KeyFileError):
            load_public_keys(tmp_path / "empty")
