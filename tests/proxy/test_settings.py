"""The proxy's configuration: defaults that are safe, and faults that say where."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from hubgate.proxy import app, preflight
from hubgate.proxy.settings import Hub, ProxySettings, read_account
from hubgate.runtime.config import ConfigError, load
from hubgate.runtime.shared_settings import PUBLIC_HUB
from tests.cases import each
from tests.fakes.keyring import Keyring
from tests.fakes.pki import Pki

CANARY = "hf_canary_4711"
ID = "5f0c1d2e3b4a59687786a5b4"
OVERRIDE = {"requests_per_minute": 1}
MINIMAL: dict[str, Any] = {
    "callers": {"users": ["alice"]},
    "models": {"allow": ["demo/*"]},
    "upstreams": [{"name": "gpu-0", "url": "http://127.0.0.1:8100", "public_key_file": "backend.pub"}],
    "seal": {"key_file": "proxy.key"},
}
TLS = {"ca_file": "ca.pem", "cert_file": "proxy.pem", "key_file": "proxy.tls"}
SECURE = {**MINIMAL["upstreams"][0], "url": "https://127.0.0.1:8100", "tls": TLS}


def read(folder: Path, **sections: Any) -> ProxySettings:
    """The settings of a file."""
    path = folder / "proxy.yaml"
    path.write_text(yaml.safe_dump({**MINIMAL, **sections}))
    return load(ProxySettings, path)


def faults(folder: Path, **sections: Any) -> list[str]:
    """The faults of a file; none of them quotes a value."""
    with pytest.raises(ConfigError) as caught:
        read(folder, **sections)
    assert CANARY not in "".join(caught.value.faults)
    return caught.value.faults


def test_the_defaults_are_those_of_the_design(tmp_path: Path) -> None:
    """What users were told a silent file means."""
    found = read(tmp_path)
    assert (found.listen.host, found.listen.port) == ("0.0.0.0", 8080)
    assert (found.admin.host, found.admin.port) == ("127.0.0.1", 8081)
    assert (found.hub.timeout, found.hub.identity_ttl, found.hub.access_ttl) == (5, 300, 60)
    assert (found.hub.denial_ttl, found.hub.revision_ttl) == (10, 3600)
    assert found.tokens.roles == {"read", "fineGrained"}
    assert (found.tokens.max_age_days, found.tokens.when_old, found.tokens.oauth) == (90, "deny", "deny")
    assert found.models.revisions == {"main"}
    assert found.models.require_base_access
    assert (found.limits.requests_per_minute, found.limits.concurrent_requests) == (600, 64)
    assert found.request.max_body_bytes == 32 * 1024 * 1024
    assert found.request.max_buffered_bytes == 512 * 1024 * 1024
    assert (found.timeouts.answer, found.timeouts.least_rate) == (3600, 1024)
    assert found.audit.required
    assert not found.metrics.per_user


@each(
    ("sections", "where"),
    [
        ({"callers": {}}, "callers"),
        ({"callers": {"users": []}}, "callers"),
        ({"callers": {"anyone": True, "users": [CANARY]}}, "callers"),
        ({"callers": {"users": [""]}}, "callers.users"),
        ({"callers": {"users": [f"@{CANARY}"]}}, "callers.users"),
        ({"callers": {"users": [f"{CANARY}="]}}, "callers.users"),
        ({"callers": {"users": [f"{CANARY}=5F0C1D2E3B4A59687786A5B4"]}}, "callers.users"),
        ({"callers": {"users": [f"{CANARY}=5f0c"]}}, "callers.users"),
        ({"callers": {"users": [f"{CANARY}={ID}\n"]}}, "callers.users"),
        ({"callers": {"users": [f"={ID}"]}}, "callers.users"),
        ({"callers": {"orgs": ["id:"]}}, "callers.orgs"),
        (
            {"callers": {"orgs": [f"a={ID}", f"a={ID[::-1]}"]}},
            "configuration: callers.orgs, limits.overrides.orgs",
        ),
        ({"callers": {"anyone": True, "block": {"users": [f"id:{CANARY}"]}}}, "callers.block.users"),
        ({"limits": {"overrides": {"users": {"id:1": OVERRIDE}}}}, "limits.overrides.users"),
        ({"models": {"allow": []}}, "models.allow"),
        ({"models": {"allow": [CANARY]}}, "models.allow.0"),
        ({"models": {"allow": ["a/*"], "revisions": [CANARY]}}, "models.revisions"),
        ({"models": {"allow": ["a/*"], "aliases": {"x": CANARY}}}, "models.aliases.x"),
        ({"models": {"allow": ["a/*"], "base_map": {"x": CANARY}}}, "models.base_map.x"),
        ({"tokens": {"roles": []}}, "tokens.roles"),
        ({"tokens": {"roles": ["admin"]}}, "tokens.roles"),
        ({"tokens": {"max_age_days": 0}}, "tokens.max_age_days"),
        ({"tokens": {"when_old": CANARY}}, "tokens.when_old"),
        ({"hub": {"access_ttl": 0}}, "hub.access_ttl"),
        ({"hub": {"access_ttl": float("inf")}}, "hub.access_ttl"),
        ({"hub": {"endpoint": CANARY}}, "hub.endpoint"),
        ({"hub": {"endpoint": f"ftp://{CANARY}"}}, "hub.endpoint"),
        ({"hub": {"endpoint": f"http://alice:{CANARY}@hub"}}, "hub.endpoint"),
        ({"hub": {"endpoint": f"http://:{CANARY}@hub"}}, "hub.endpoint"),
        ({"hub": {"endpoint": f"http://hub?{CANARY}"}}, "hub.endpoint"),
        ({"hub": {"endpoint": f"http://hub#{CANARY}"}}, "hub.endpoint"),
        *(
            ({"hub": {"endpoint": url}}, "hub.endpoint")
            for url in (
                " https://hub",
                "https://hub\n",
                "https://h\tub",
                "https:hub",
                "https:\\hub",
                "https://@hub",
            )
        ),
        *(
            ({"hub": {"endpoint": f"https://hub/{path}"}}, "hub.endpoint")
            for path in ("a b", "a@b", "a?b", "\\")
        ),
        ({"limits": {"storage": f"mysql://{CANARY}"}}, "limits.storage"),
        ({"limits": {"requests_per_minute": 0}}, "limits.requests_per_minute"),
        ({"limits": {"weight": 0}}, "limits.weight"),
        ({"limits": {"queue_seconds": 0}}, "limits.queue_seconds"),
        ({"limits": {"queue_seconds": float("inf")}}, "limits.queue_seconds"),
        (
            {"limits": {"overrides": {"orgs": {"acme": {"weight": 10_001}}}}},
            "limits.overrides.orgs.acme.weight",
        ),
        ({"request": {"max_buffered_bytes": 4 * 2**25 - 1}}, "request"),
        ({"request": {"max_body_bytes": 2**27 + 1}}, "request"),
        ({"timeouts": {"least_rate": 0}}, "timeouts.least_rate"),
        ({"timeouts": {"least_rate": float("inf")}}, "timeouts.least_rate"),
        ({"timeouts": {"answer": 0}}, "timeouts.answer"),
        ({"timeouts": {"answer": float("inf")}}, "timeouts.answer"),
        ({"limits": {"refusals_per_minute": 0}}, "limits.refusals_per_minute"),
        ({"upstreams": []}, "upstreams"),
        ({"upstreams": MINIMAL["upstreams"] * 2}, "configuration"),
        ({"upstreams": [{**MINIMAL["upstreams"][0], "url": f"https://{CANARY}"}]}, "upstreams.0"),
        ({"upstreams": [{**MINIMAL["upstreams"][0], "tls": TLS}]}, "upstreams.0"),
        ({"upstreams": [{**SECURE, "name": "10.0.0.7"}]}, "upstreams.0"),
        ({"upstreams": [{**SECURE, "name": "a..b"}]}, "upstreams.0"),
        ({"upstreams": [{**SECURE, "tls": {**TLS, "ca_file": None}}]}, "upstreams.0.tls.ca_file"),
        ({"upstreams": [{**SECURE, "tls": {"ca_file": "x", "key_file": "x"}}]}, "upstreams.0.tls.cert_file"),
        ({"upstreams": [{**MINIMAL["upstreams"][0], "tls": CANARY}]}, "upstreams.0.tls"),
        ({"listen": {"port": 65536}}, "listen.port"),
        ({"listen": {"tls": {"cert_file": "x"}}}, "listen.tls.key_file"),
        (
            {"keys": [{"name": CANARY, "sha256": CANARY, "token": "service", "models": ["a/*"]}]},
            "keys.0.sha256",
        ),
        ({"keys": [{"name": "ci", "sha256": "0" * 64, "token": CANARY, "models": ["a/*"]}]}, "keys.0.token"),
        ({"keys": [{"name": "ci", "sha256": "0" * 64, "token": "service", "models": []}]}, "keys.0.models"),
        ({"workers": 4}, "workers"),
        ({"hub": {"tokn": CANARY}}, "hub.tokn"),
    ],
)
def test_each_fault_is_told_by_its_path(tmp_path: Path, sections: dict[str, Any], where: str) -> None:
    """A wrong value is named by its key, without the value."""
    assert any(fault.startswith(where) for fault in faults(tmp_path, **sections))


@each(
    ("text", "account"),
    [
        ("alice", ("alice", "")),
        ("A.l-i_c3", ("A.l-i_c3", "")),
        (ID, (ID, "")),  # a name like any other
        (f"alice={ID}", ("alice", ID)),
        (f"id={ID}", ("id", ID)),
        (f"id:{ID}", ("", ID)),
        ("key:nightly", ("key:nightly", "")),
    ],
)
def test_an_account_is_a_name_or_an_id(text: str, account: tuple[str, str]) -> None:
    """No name that the Hub gives can be taken for an id, nor the other way round."""
    assert read_account(text) == account


def test_one_account_can_be_written_in_several_places(tmp_path: Path) -> None:
    """With its id here and without it there, and under two names; a block may name whom it likes."""
    numbers = {f"bob={ID[::-1]}": OVERRIDE, "alice": OVERRIDE}
    block = {"users": [f"alice={ID}", f"alice={ID[::-1]}"]}
    callers = {"users": [f"alice={ID}", f"alicia={ID}", "bob"], "block": block}
    assert read(tmp_path, callers=callers, limits={"overrides": {"users": numbers}})


def test_the_hub_is_configured_or_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """`hub.endpoint` goes before `HF_ENDPOINT`, and that before the public Hub."""
    assert Hub().url == PUBLIC_HUB
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror/")
    assert Hub().url == "http://mirror"
    assert Hub(endpoint="http://own/").url == "http://own"


def test_key_files_are_checked_together(tmp_path: Path) -> None:
    """`check` names every key file that cannot be used, in one go."""
    ring = Keyring.make(tmp_path / "keys")
    upstreams = [
        {"name": "gpu-0", "url": "http://127.0.0.1:1", "public_key_file": str(ring.backend_private)},
        {"name": "gpu-1", "url": "http://127.0.0.1:2", "public_key_file": str(tmp_path / "nowhere")},
    ]
    keys = [{"name": "ci", "sha256": "0" * 64, "token": "service", "models": ["demo/*"]}]
    settings = read(
        tmp_path,
        listen={"tls": {"cert_file": str(tmp_path / "nowhere"), "key_file": str(ring.proxy_private)}},
        upstreams=upstreams,
        seal={"key_file": str(ring.proxy_public)},
        keys=keys,
    )
    with pytest.raises(ConfigError) as caught:
        preflight.check(settings)
    assert [fault.partition(":")[0] for fault in caught.value.faults] == [
        "seal.key_file",
        "upstreams.0.public_key_file",
        "upstreams.1.public_key_file",
        "listen.tls",
        "keys.0.token",
    ]


def test_certificates_are_checked_with_the_rest(tmp_path: Path) -> None:
    """Each upstream's: whose it is not, which key it does not fit, when it ended, what is not there."""
    ring, pki = Keyring.make(tmp_path / "keys"), Pki(tmp_path)
    good, old = pki.pair("proxy", "proxy"), pki.pair("proxy", "p", stem="old", from_days=-9, days=1)
    engine = pki.pair("engine", "gpu-0")
    shown = [
        good.settings,
        engine.settings,
        old.settings,
        {**good.settings, "key_file": str(engine.key)},
        {**engine.settings, "ca_file": str(tmp_path / "nowhere")},
    ]
    upstreams = [
        {
            "name": f"gpu-{index}",
            "url": f"https://127.0.0.1:{index + 1}",
            "public_key_file": str(ring.backend_public),
            "tls": {"ca_file": str(pki.ca), **one},
        }
        for index, one in enumerate(shown)
    ]
    settings = read(tmp_path, upstreams=upstreams, seal={"key_file": str(ring.proxy_private)})
    with pytest.raises(ConfigError) as caught:
        preflight.check(settings)
    said = [fault.replace(str(tmp_path), "") for fault in caught.value.faults]
    assert len(said) == 4
    assert said[0].startswith("upstreams.1.tls: /engine-gpu-0.pem: the certificate is that of an engine, not")
    assert said[1].startswith("upstreams.2.tls: /old.pem: expired on ")
    assert "is no certificate of the key in" in said[2]
    assert "/nowhere: No such file" in said[3]
    assert "that of an engine" in said[3]


async def test_a_port_that_is_taken_is_a_fault(tmp_path: Path) -> None:
    """The proxy says which port it cannot have, and leaves nothing running."""
    ring = Keyring.make(tmp_path / "keys")
    settings = read(
        tmp_path,
        upstreams=[
            {"name": "gpu-0", "url": "http://127.0.0.1:9", "public_key_file": str(ring.backend_public)}
        ],
        seal={"key_file": str(ring.proxy_private)},
        audit={"path": str(tmp_path / "audit.jsonl")},
        listen={"host": "127.0.0.1", "port": 0},
        admin={"port": 0},
    )
    keys = preflight.check(settings)
    async with app.running(settings, keys) as proxy:
        other = settings.audit.model_copy(update={"path": tmp_path / "other.jsonl"})
        listen = settings.listen.model_copy(update={"port": proxy.port})
        taken = settings.model_copy(update={"listen": listen, "audit": other})
        with pytest.raises(ConfigError) as caught:
            async with app.running(taken, keys):
                pytest.fail("two listen on one port")
    assert caught.value.faults[0].startswith("listen.port:")


def test_each_host_has_a_trail_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a volume that proxies share; what else stands in braces is a typing error."""
    monkeypatch.setattr("socket.gethostname", lambda: "proxy-7f9c")
    for text, path in {
        "/audit/{hostname}.jsonl": "/audit/proxy-7f9c.jsonl",
        "{hostname}/a": "proxy-7f9c/a",
        "a": "a",
    }.items():
        assert read(tmp_path, audit={"path": text}).audit.path == Path(path)
    for text in ("{host}.jsonl", "{hostname", "a}", "{hostname}{}"):
        assert "audit.path: may hold {hostname}" in faults(tmp_path, audit={"path": text})[0]
