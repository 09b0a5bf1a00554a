"""The service token: the environment scheme, for infrastructure without a caller.

The first of `HF_API_TOKEN`, `HF_TOKEN`, `HUGGING_FACE_HUB_TOKEN` that is set wins; the same name
with `_FILE` names a mounted secret, which is read anew for every use, so rotation needs no restart.

What cannot be a token is told as that: asked about it, the Hub would only say that it does not know it.
"""

from collections.abc import Mapping
from pathlib import Path

from hubgate.wire import file_faults
from hubgate.wire.secret import Secret

NAMES = ("HF_API_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


class TokenFile:
    """A secret in a file, as Docker and Kubernetes mount them; `fault` says why there was none last time."""

    __slots__ = ("fault", "name", "path")

    def __init__(self, path: Path, name: str = "") -> None:
        """`name` is what the settings or the environment call it."""
        self.path = path
        self.name = name
        self.fault: str | None = None

    def read(self) -> Secret | None:
        """The token as it is now; `None` while the file holds none."""
        text, fault = file_faults.read_line(self.path)
        self.fault = fault or None
        return Secret(text) if text else None

    def current(self) -> Secret | None:
        """Look at it, as `hubgate.runtime.watch` does."""
        return self.read()


class TokenValue:
    """A secret that was handed over in the environment. `fault` says why it cannot be one."""

    __slots__ = ("_secret", "fault", "name")

    def __init__(self, secret: Secret, name: str = "") -> None:
        self.name = name
        self.fault: str | None = file_faults.no_secret(secret.reveal()) or None
        self._secret = secret

    def read(self) -> Secret | None:
        """The token; `None` if it cannot be one."""
        return None if self.fault else self._secret

    def current(self) -> Secret | None:
        """The same, as `hubgate.runtime.watch` asks for it."""
        return self.read()


ServiceToken = TokenFile | TokenValue


def find(environ: Mapping[str, str]) -> ServiceToken | None:
    """The service token that this environment names, or `None`."""
    for name in NAMES:
        if value := environ.get(name, "").strip():
            return TokenValue(Secret(value), name)
        if path := environ.get(f"{name}_FILE", "").strip():
            return TokenFile(Path(path), f"{name}_FILE")
    return None
