"""A configuration that the command can use."""

from pathlib import Path
from typing import Any

import yaml

from tests.fakes.keyring import Keyring


def configured(folder: Path, **sections: Any) -> Path:
    """A configuration of a proxy whose key files are there."""
    ring = Keyring.make(folder / "keys")
    upstream = {"name": "gpu-0", "url": "http://127.0.0.1:9", "public_key_file": str(ring.backend_public)}
    path = folder / "proxy.yaml"
    settings = {
        "listen": {"host": "127.0.0.1", "port": 0},
        "admin": {"port": 0},
        "callers": {"users": ["alice"]},
        "models": {"allow": ["demo/*"]},
        "upstreams": [upstream],
        "seal": {"key_file": str(ring.proxy_private)},
        "audit": {"path": str(folder / "audit.jsonl")},
    }
    path.write_text(yaml.safe_dump({**settings, **sections}))
    return path
