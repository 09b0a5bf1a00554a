"""The admin port where others reach it: probes are open, and all else asks for a key."""

from base64 import b64encode
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog

from hubgate.proxy.app import Clocks
from hubgate.runtime.config import ConfigError
from hubgate.runtime.operator_key import WRONG, is_loopback
from tests.fakes.clock import Clock
from tests.fakes.running_proxy import Edge
from tests.proxy.blocks.conftest import KEY, key_file

METRICS_KEY = "key-of-prometheus-0123456789-0123456789"


def settings(**admin: Any) -> dict[str, Any]:
    """A proxy whose admin port is on all interfaces."""
    return {"admin": {"host": "0.0.0.0", "port": 0, **admin}}


def basic(user: str, key: str) -> str:
    """As a browser sends it."""
    return "Basic " + b64encode(f"{user}:{key}".encode()).decode()


async def asked(edge: Edge, path: str, *authorization: str) -> tuple[int, str]:
    """The status, and the header that matters: what is asked for, or how long to wait."""
    headers = [("Authorization", value) for value in authorization]
    async with (
        aiohttp.ClientSession() as session,
        session.get(edge.admin_url + path, headers=headers) as answer,
    ):
        text = await answer.text()
        assert KEY not in text
        assert ("hubgate_requests_total" in text) is (answer.status == 200 and path == "/metrics")
        return answer.status, answer.headers.get("WWW-Authenticate") or answer.headers.get(
            "Retry-After"
        ) or ""


async def test_metrics_ask_for_the_key_where_others_reach_them(tmp_path: Path) -> None:
    """As a Bearer for Prometheus, as the password of any user for browsers; the probes are open."""
    async with Edge.start(tmp_path, settings(key_file=str(key_file(tmp_path)))) as edge:
        assert await asked(edge, "/metrics") == (401, 'Bearer, Basic realm="hubgate"')
        for wrong in (
            f"Bearer {KEY}x",
            f"Bearer {KEY[:-1]}",
            "Basic !",
            basic(KEY, ""),
            f"Digest {KEY}",
            "Bearer",
        ):
            assert (await asked(edge, "/metrics", wrong))[0] == 401
        assert (await asked(edge, "/metrics", f"Bearer {KEY}", f"Bearer {KEY}"))[0] == 401
        for right in (f"Bearer {KEY}", f"bearer {KEY}", basic("", KEY), basic("anybody", KEY)):
            assert (await asked(edge, "/metrics", right))[0] == 200
        assert (await asked(edge, "/livez"))[0] == (await asked(edge, "/readyz"))[0] == 200


async def test_who_reads_metrics_locks_nobody_out(tmp_path: Path) -> None:
    """The key that Prometheus has is for /metrics alone, and a browser's password is for no command."""
    path = tmp_path / "metrics.key"
    path.write_text(METRICS_KEY)
    path.chmod(0o640)
    own = settings(key_file=str(key_file(tmp_path)), metrics_key_file=str(path))
    async with Edge.start(tmp_path, own) as edge:
        assert (await asked(edge, "/metrics", f"Bearer {METRICS_KEY}"))[0] == 200
        assert (await asked(edge, "/metrics", f"Bearer {KEY}"))[0] == 200
        assert await asked(edge, "/blocks", f"Bearer {METRICS_KEY}") == (401, "Bearer")
        assert await asked(edge, "/blocks", basic("x", KEY)) == (401, "Bearer")
        assert (await asked(edge, "/blocks", f"Bearer {KEY}"))[0] == 200


async def test_on_loopback_metrics_are_open_as_ever(tmp_path: Path) -> None:
    """Unless there is a key that was made for them."""
    admin = {"port": 0, "key_file": str(key_file(tmp_path))}
    async with Edge.start(tmp_path, {"admin": admin}) as edge:
        assert (await asked(edge, "/metrics"))[0] == 200
        async with edge.twin(admin={**admin, "metrics_key_file": admin["key_file"]}) as other:
            assert (await asked(other, "/metrics"))[0] == 401


async def test_wrong_keys_are_limited(tmp_path: Path) -> None:
    """Past ten in a minute nothing of that address is looked at; none, or the same again, does not count."""
    clock = Clock()
    async with Edge.start(
        tmp_path, settings(key_file=str(key_file(tmp_path))), clocks=Clocks(monotonic=clock)
    ) as edge:
        for authorization in ((), (f"Bearer {KEY}-of-yesterday",)):
            for _ in range(2 * WRONG):
                assert (await asked(edge, "/metrics", *authorization))[0] == 401
        for number in range(WRONG - 1):
            assert (await asked(edge, "/metrics", f"Bearer {KEY}{number}"))[0] == 401
        assert (await asked(edge, "/metrics", f"Bearer {KEY}")) == (429, "60")
        assert (await asked(edge, "/blocks", f"Bearer {KEY}")) == (429, "60")
        assert (await asked(edge, "/livez"))[0] == 200
        clock.advance(61)
        assert (await asked(edge, "/metrics", f"Bearer {KEY}"))[0] == 200


async def test_an_open_admin_port_is_warned_of(tmp_path: Path) -> None:
    """It may be guarded by its network; names of users are not shown on that chance."""
    with structlog.testing.capture_logs() as logs:
        async with Edge.start(tmp_path, settings()) as edge:
            assert (await asked(edge, "/metrics"))[0] == 200
    assert [entry["log_level"] for entry in logs if "/metrics is open" in entry["event"]] == ["warning"]
    with pytest.raises(ConfigError, match=r"metrics\.per_user: would show names of users"):
        async with Edge.start(tmp_path, {**settings(), "metrics": {"per_user": True}}):
            pytest.fail("it started")


def test_what_is_loopback() -> None:
    """Every address that only this machine reaches."""
    assert all(map(is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "", "10.0.0.1", "localhost.example")))
