"""docker-compose.yml and the images' files, read without an engine; `make test-compose` runs them."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from hubgate.backend.settings import BackendSettings
from hubgate.proxy.settings import ProxySettings, Upstream
from hubgate.runtime.config import load

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docker-compose.yml").read_text()
FILE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
ONE_SHOT = {"welcome", "keys"}
BACKENDS = {"backend", "cpu-backend", "demo-backend"}
PROXIES = {"proxy": "hub", "cpu-proxy": "hub", "demo-proxy": "demo"}  # service: its folder in config/compose


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_hardened(name: str) -> None:
    """A read-only root, no capabilities, no way to more of them, a bounded log; and it comes back."""
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}
    assert service["restart"] == ("no" if name in ONE_SHOT else "always")
    assert "privileged" not in service
    assert "cap_add" not in service


def test_ports_are_published_on_loopback() -> None:
    """Whoever wants more says so in .env, for each port; what is internal publishes none."""
    published = [(name, port) for name, service in SERVICES.items() for port in service.get("ports", ())]
    assert len(published) >= 9
    for name, port in published:
        assert re.fullmatch(r"\$\{[A-Z_]+:-127\.0\.0\.1:\d+\}:\d+", port), (name, port)
        assert "edge" in SERVICES[name]["networks"]  # those of an internal network alone are not published
        assert name not in BACKENDS


def test_callers_reach_proxies_alone() -> None:
    """Backends and what they ask are on no network of callers; two networks have no way out."""
    assert {name for name, one in FILE["networks"].items() if one.get("internal")} == {"private", "metrics"}
    for name in (*BACKENDS, "demo-hub", "redis"):
        assert "edge" not in SERVICES[name]["networks"], name


@pytest.mark.parametrize(("name", "folder"), PROXIES.items())
def test_a_stop_waits_for_the_drain(name: str, folder: str) -> None:
    """Docker's grace is longer than `timeouts.drain`; a backend stops after its proxy."""
    settings = load(ProxySettings, ROOT / "config" / "compose" / folder / "proxy.yaml")
    assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) > settings.timeouts.drain
    assert BACKENDS & set(SERVICES[name]["depends_on"])
    assert SERVICES[name]["depends_on"]["keys"] == {"condition": "service_completed_successfully"}


@pytest.mark.parametrize("folder", ["hub", "demo"])
def test_both_configurations_fit_together(folder: str) -> None:
    """The files that are mounted can be read, name each other's parts, and keys where `keys` puts them."""
    proxy = load(ProxySettings, ROOT / "config" / "compose" / folder / "proxy.yaml")
    backend = load(BackendSettings, ROOT / "config" / "compose" / folder / "backend.yaml")
    (upstream,) = proxy.upstreams
    assert isinstance(upstream, Upstream)
    assert upstream.name == backend.name
    assert upstream.url == f"http://backend:{backend.listen.port}"
    assert str(upstream.public_key_file) == "/keys/proxy/hubgate_backend.pub"
    assert str(proxy.seal.key_file) == "/keys/proxy/hubgate_proxy.key"
    assert str(backend.seal.key_file) == "/keys/backend/hubgate_backend.key"
    assert str(backend.seal.proxies_file) == "/keys/backend/hubgate_proxy.pub"
    for one in backend.engines.preload:
        assert any(re.fullmatch(glob.replace("*", ".*"), one.repo) for glob in proxy.models.allow)


def test_tokens_come_in_files() -> None:
    """No environment holds a secret, where `docker inspect` shows it."""
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            assert re.search(r"hf_(?!token$)", str(value)) is None, name
            if "TOKEN" in variable or "PASSWORD" in variable:
                assert variable.endswith("_FILE")
                assert value.startswith("/run/secrets/")


def test_every_variable_can_be_set() -> None:
    """What .env.example names is used, and every profile is in the documentation."""
    named = set(re.findall(r"^#?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    used = set(re.findall(r"\$\{([A-Z_]+):-", TEXT)) | {"COMPOSE_PROFILES"}
    assert named - used == set()
    profiles = {profile for service in SERVICES.values() for profile in service.get("profiles", ())}
    assert profiles == {"gpu", "cpu", "demo", "observe", "grafana", "scale"}
    documented = (ROOT / "docs" / "compose.md").read_text()
    assert [profile for profile in profiles if f"| `{profile}` |" not in documented] == []
    assert {name for name, service in SERVICES.items() if "profiles" not in service} == {"welcome"}


@pytest.mark.parametrize(("file", "stages"), [("proxy/Dockerfile", 1), ("backend/Dockerfile", 3)])
def test_images_end_as_a_user(file: str, stages: int) -> None:
    """Each stage that can be run: user 10001, SIGTERM, a healthcheck of its own; nothing without a hash."""
    text = (ROOT / file).read_text()
    final = [
        stage for stage in re.split(r"^FROM ", text, flags=re.MULTILINE) if "\nUSER 10001:10001\n" in stage
    ]
    assert len(final) == stages
    for stage in final:
        assert re.findall(r"^USER (\S+)", stage, re.MULTILINE)[-1] == "10001:10001"
        if "FROM cpu AS demo" not in f"FROM {stage}":
            assert "\nSTOPSIGNAL SIGTERM\n" in stage
            assert '"hubgate", "probe"' in stage
            assert "-o 10001 -g 10001 -m 0700 /var/lib/hubgate /keys/proxy /keys/backend" in stage
    for line in re.sub(r"\\\n", "", text).splitlines():
        for command in re.findall(r"pip [^&|;]*\binstall\b[^&|;\"]*", line):
            assert "--require-hashes" in command or ".whl" in command, command
