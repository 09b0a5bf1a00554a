"""API keys of the proxy's own: callers without a Hub account, with a token of the operator's choice."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from hubgate.runtime.config import ConfigError
from tests.fakes.running_proxy import ALICE, BASE, PRIVATE, PUBLIC, Edge
from tests.proxy.conftest import StartEdge

KEY = "local-key-of-ci-0123456789"


def key(token: Any, *models: str) -> dict[str, Any]:
    """Settings with one key; callers are listed so that only the key's owner is let in."""
    entry = {
        "name": "ci",
        "sha256": hashlib.sha256(KEY.encode()).hexdigest(),
        "token": token,
        "models": list(models or ("demo/*",)),
    }
    return {"keys": [entry], "callers": {"users": ["nobody-else"]}}


async def test_the_service_token_serves_a_key(start_edge: StartEdge, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key bound to the service token is an identity of its own; the Hub is asked with that token."""
    monkeypatch.setenv("HF_TOKEN", "hf_demo_service")
    edge = await start_edge(key("service"))
    assert (await edge.chat(BASE, KEY)).status == 200
    assert edge.hub_calls() == edge.hub_calls("service") == [f"GET /api/models/{BASE}/auth-check"]
    (record,) = await edge.records(1)
    assert (record["user"], record["token_name"], record["role"]) == ("key:ci", "ci", "key")
    assert KEY not in edge.settings.audit.path.read_text()


async def test_without_a_service_token_it_does_not_start(tmp_path: Path) -> None:
    """A key whose token is nowhere is a fault of the configuration."""
    with pytest.raises(ConfigError, match="no service token"):
        async with Edge.start(tmp_path, key("service")):
            pytest.fail("it started")


async def test_a_key_is_bound_to_its_models(start_edge: StartEdge, tmp_path: Path) -> None:
    """What the key's token could read besides is not served to its holder."""
    (tmp_path / "token").write_text(f"{ALICE}\n")
    edge = await start_edge(key({"file": str(tmp_path / "token")}, BASE))
    assert (await edge.chat(BASE, KEY)).status == 200
    for model in (PRIVATE, PUBLIC):
        assert (await edge.chat(model, KEY)).code == "model_not_allowed"
    assert (await edge.chat(BASE, ALICE)).code == "caller_not_allowed"


async def test_a_mounted_token_rotates_without_a_restart(start_edge: StartEdge, tmp_path: Path) -> None:
    """The file is read for each request: a new token counts at once, a missing one is 503."""
    file = tmp_path / "token"
    file.write_text("hf_demo_unknown")
    edge = await start_edge(key({"file": str(file)}))
    assert (await edge.chat(BASE, KEY)).status == 401
    file.write_text("hf_demo_service")
    assert (await edge.chat(BASE, KEY)).status == 200
    file.unlink()
    assert (await edge.chat(BASE, KEY)).code == "hub_unavailable"


@pytest.mark.parametrize(
    "wrong", [KEY[:-1], KEY + "0", KEY.upper(), "ci", hashlib.sha256(KEY.encode()).hexdigest()]
)
async def test_only_the_whole_key_counts(start_edge: StartEdge, tmp_path: Path, wrong: str) -> None:
    """Neither a part of the key, nor its name, nor its hash opens anything."""
    (tmp_path / "token").write_text("hf_demo_service")
    edge = await start_edge(key({"file": str(tmp_path / "token")}))
    assert (await edge.chat(BASE, wrong)).code == "invalid_api_key"
    assert edge.hub_calls() == []
