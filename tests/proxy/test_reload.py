"""What an operator does while the proxy runs: lock out, reload, rotate; and what protects the Hub."""

import json
from base64 import urlsafe_b64decode
from pathlib import Path
from typing import Any

import yaml

from hubgate.proxy.settings import ProxySettings
from hubgate.runtime.config import load
from hubgate.wire import keygen
from hubgate.wire.keys import SETTLE
from tests.fakes.running_proxy import ALICE, BASE, BOB, PUBLIC, Edge, eventually

OLD = "hf_demo_old"


def reload(edge: Edge, **sections: Any) -> None:
    """Change sections of the configuration file and do what SIGHUP does."""
    settings = yaml.safe_load(edge.config.read_text())
    edge.config.write_text(yaml.safe_dump({**settings, **sections}))
    edge.proxy.reloader.reload(lambda: load(ProxySettings, edge.config))


def age(path: Path) -> None:
    """Make every key of a file old enough to be used."""
    content = json.loads(path.read_text())
    for key in content["keys"]:
        key["iat"] = key.get("iat", 0) - int(SETTLE)
    path.write_text(json.dumps(content))


async def test_a_blocked_user_is_locked_out_at_once(tmp_path: Path) -> None:
    """The block list wins over the callers list, from the next request on, and for nobody else."""
    async with Edge.start(tmp_path) as edge:
        assert (await edge.chat(token=BOB)).status == 200
        reload(edge, callers={"anyone": True, "block": {"users": ["bob"]}})
        refused = await edge.chat(token=BOB)
        assert (refused.status, refused.code) == (403, "caller_not_allowed")
        assert (await edge.chat(token=ALICE)).status == 200


async def test_one_token_can_be_blocked_by_its_fingerprint(tmp_path: Path) -> None:
    """The fingerprint in the audit is enough to lock out that token and no other."""
    async with Edge.start(tmp_path) as edge:
        await edge.chat(token=BOB)
        (record,) = await edge.records(1, "request.done")
        reload(edge, callers={"anyone": True, "block": {"fingerprints": [record["fingerprint"]]}})
        assert (await edge.chat(token=BOB)).code == "caller_not_allowed"
        assert (await edge.chat(token=ALICE)).status == 200


async def test_members_of_a_blocked_organization_are_locked_out(tmp_path: Path) -> None:
    """Alice is a member of acme."""
    async with Edge.start(tmp_path) as edge:
        reload(edge, callers={"anyone": True, "block": {"orgs": ["acme"]}})
        assert (await edge.chat(token=ALICE)).code == "caller_not_allowed"
        assert (await edge.chat(token=BOB)).status == 200


async def test_a_reload_forgets_what_the_hub_said(tmp_path: Path) -> None:
    """A token revoked at the Hub is refused from the next request after a reload, whatever its ttl."""
    async with Edge.start(tmp_path) as edge:
        assert (await edge.chat(token=BOB)).status == 200
        edge.hub.state.revoke(user="bob")
        assert (await edge.chat(token=BOB)).status == 200  # within identity_ttl
        reload(edge)
        assert (await edge.chat(token=BOB)).code == "invalid_api_key"


async def test_models_can_be_denied_by_a_reload(tmp_path: Path) -> None:
    """A model that turns out to be bad is taken out of service at once."""
    async with Edge.start(tmp_path) as edge:
        assert (await edge.chat(token=BOB)).status == 200
        reload(edge, models={"allow": ["demo/*"], "deny": [BASE]})
        assert (await edge.chat(token=BOB)).code == "model_not_allowed"


async def test_a_faulty_configuration_changes_nothing(tmp_path: Path) -> None:
    """A typing error in the file that is reloaded neither opens nor closes anything."""
    async with Edge.start(tmp_path) as edge:
        reload(edge, callers={"anyone": True, "block": {"users": ["bob"]}})
        reload(edge, callers={}, tokens={"roles": []})
        assert (await edge.chat(token=BOB)).code == "caller_not_allowed"
        assert (await edge.chat(token=ALICE)).status == 200


async def test_an_old_token_can_be_warned_of_instead_of_refused(tmp_path: Path) -> None:
    """With `when_old: warn` the answer carries a notice, and the metric counts the token."""
    async with Edge.start(tmp_path, {"tokens": {"when_old": "warn"}}) as edge:
        answers = [await edge.chat(token=OLD) for _ in range(2)]
        assert [answer.status for answer in answers] == [200, 200]
        assert "120 days old" in (answers[0].header("x-hubgate-notice") or "")
        assert await edge.metric("hubgate_tokens_over_age") == 1
        assert (await edge.chat(token=BOB)).header("x-hubgate-notice") is None


async def test_junk_tokens_cost_a_bounded_number_of_questions(tmp_path: Path) -> None:
    """Random tokens of one client end the questions for that client; good callers are not hurt."""
    settings = {"hub": {"refused_tokens_per_minute": 20}, "listen": {"trusted_proxies": ["127.0.0.0/8"]}}
    async with Edge.start(tmp_path, settings) as edge:
        bad = [("X-Forwarded-For", "203.0.113.66")]
        codes = [(await edge.ask("GET", "/v1/models", f"hf_junk{n}", bad)).code for n in range(100)]
        assert codes.count("invalid_api_key") == 20
        assert codes.count("rate_limit_exceeded") == 80
        assert sum(call.endswith("whoami-v2") for call in edge.hub_calls()) == 20
        good = await edge.ask("GET", "/v1/models", BOB, [("X-Forwarded-For", "203.0.113.7")])
        assert good.status == 200


async def test_keys_of_both_sides_rotate_without_a_lost_request(tmp_path: Path) -> None:
    """Old key, both, new key: every request is served, and in the end the new keys are in use."""
    async with Edge.start(tmp_path) as edge:
        ring, backend = edge.backend.ring, edge.checked.backends["gpu-0"]
        old = ring.proxy.signing.kid

        async def served() -> bool:
            return (await edge.chat(token=BOB)).status == 200

        async def rotated() -> bool:
            assert await served()
            own = edge.checked.keys.current().signing.kid != old
            return own and backend.current().sealing.kid == ring.backend_half.sealing.kid

        assert await served()
        assert _signer(edge) == old
        keygen.add_proxy(ring.proxy_private.parent)
        keygen.add_backend(ring.backend_private.parent)
        assert await served()
        age(ring.proxy_private)
        age(ring.backend_public)
        await eventually(rotated)
        assert (await edge.chat(token=ALICE)).status == 200  # her first grant
        assert _signer(edge) == ring.proxy.signing.kid != old
        assert (await edge.chat(PUBLIC, BOB)).status == 200  # cold: sealed for the backend's new key


def _signer(edge: Edge) -> str:
    """The id of the key that signed the last grant that the engine got."""
    header = (edge.engine.requests[-1].header("x-hubgate-grant") or "").partition(".")[0]
    return str(json.loads(urlsafe_b64decode(header + "=" * (-len(header) % 4)))["kid"])
