"""`engine.json`: who this engine is and whom it believes. The supervisor writes it for each start."""

from pathlib import Path
from typing import Any

import msgspec

VARIABLE = "HUBGATE_ENGINE"  # names the file, in the engine's environment


class EngineTls(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """PEM files: who signs certificates of proxies, the supervisor's own certificate, the engine's pair."""

    authorities: str
    supervisor: str
    certificate: str
    key: str


class EngineIdentity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Holds public keys only, and names of files: with all of it nobody can make a grant."""

    id: str
    boot: str
    base: str  # served name, org/name@sha
    proxies_file: str
    supervisor: dict[str, Any]  # public JWK
    tls: EngineTls | None = None


def read(path: Path) -> EngineIdentity:
    """Raises `OSError`, `msgspec.DecodeError`: an engine that knows nobody must not start."""
    return msgspec.json.decode(path.read_bytes(), type=EngineIdentity)
