"""The service token: the environment scheme, for infrastructure without a caller.

The first of `HF_API_TOKEN`, `HF_TOKEN`, `HUGGING_FACE_HUB_TOKEN` that is set wins; the same name
with `_FILE` names a mounted secret, which is read anew for every use, so rotation needs no restart.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hubgate.wire.secret import Secret

NAMES = ("HF_API_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


@dataclass(frozen=True, slots=True)
class TokenFile:
    """A secret in a file, as Docker and Kubernetes mount them."""

    path: Path

    def read(self) -> Secret | None:
        """The token as it is now; `None` while the file is missing or empty."""
        try:
            text = self.path.read_text(encoding="ascii", errors="replace").strip()
        except OSError:
            return None
        return Secret(text) if text else None


@dataclass(frozen=True, slots=True)
class TokenValue:
    """A secret that was handed over in the environment."""

    secret: Secret

    def read(self) -> Secret | None:
        return self.secret


ServiceToken = TokenFile | TokenValue


def find(environ: Mapping[str, str]) -> ServiceToken | None:
    """The service token that this environment names, or `None`."""
    for name in NAMES:
        if value := environ.get(name, "").strip():
            return TokenValue(Secret(value))
        if path := environ.get(f"{name}_FILE", "").strip():
            return TokenFile(Path(path))
    return None
