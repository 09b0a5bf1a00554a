"""What the campaign's Hub knows as it begins, and how the proxy is configured."""

from dataclasses import replace
from pathlib import Path

import msgspec
import yaml

from hubgate.demo.catalog import User
from hubgate.demo.hub import DemoHub
from hubgate.proxy.settings import ProxySettings
from hubgate.runtime.config import load
from tests.fakes.backend import FakeBackend
from tests.fakes.engine import LOCAL, PATIENCE
from tests.isolation import scenario
from tests.isolation.attempt import Bounds


def populate(hub: DemoHub) -> tuple[dict[str, str], dict[str, str]]:
    """Give the demo Hub the campaign's users, tokens and repos; gives first commits and pull requests."""
    state = hub.state
    state.catalog = replace(state.catalog, page_size={**state.catalog.page_size, "commits": 50})
    for user, orgs in scenario.USERS.items():
        state.add_user(user, User(fullname=user.title(), orgs=orgs))
    for name, token in scenario.TOKENS.items():
        state.add_token(scenario.secret(name), token)
    first, pulls = {}, {}
    for repo, model in scenario.MODELS.items():
        config = {"base_model_name_or_path": model.base, "r": 8}
        files = {"adapter_config.json": msgspec.json.encode(config)} if model.base else {"config.json": b"{}"}
        first[repo] = state.add_repo(
            repo, files, private=model.private, gated="manual" if model.gated else False
        )
        for user, access in model.gate.items():
            state.set_gate(repo, user, access)
        pulls[repo] = state.add_commit(repo, {"more.json": b"{}"}, ref="refs/pr/1", parent=first[repo])
    state.renames |= scenario.RENAMED
    return first, pulls


def settings(folder: Path, hub: DemoHub, backend: FakeBackend, bounds: Bounds) -> ProxySettings:
    path = folder / "proxy.yaml"
    plenty = 1_000_000_000
    text = {
        "listen": {"host": LOCAL, "port": 0},
        "admin": {"port": 0},
        "hub": {
            "endpoint": hub.endpoint,
            "timeout": PATIENCE,
            "identity_ttl": bounds.identity,
            "access_ttl": bounds.access,
            "denial_ttl": bounds.denial,
            "revision_ttl": bounds.revision,
            "refused_tokens_per_minute": plenty,
        },
        "callers": {"anyone": True},
        "models": {
            "allow": ["acme/*", "alice/*", "bob/*", "lab/*", *scenario.LISTED],
            "deny": [scenario.FORBIDDEN],
            "aliases": dict(scenario.ALIASES),
        },
        "limits": {
            **dict.fromkeys(("requests_per_minute", "tokens_per_minute", "cold_loads_per_hour"), plenty),
            "refusals_per_minute": plenty,
            "concurrent_requests": 1000,
        },
        "upstreams": [
            {"name": backend.name, "url": backend.url, "public_key_file": str(backend.ring.backend_public)}
        ],
        "seal": {"key_file": str(backend.ring.proxy_private)},
        "audit": {"path": str(folder / "audit.jsonl")},
        "timeouts": {"drain": 0.2},
    }
    path.write_text(yaml.safe_dump(text))
    return load(ProxySettings, path)
