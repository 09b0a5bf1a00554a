"""An engine's identity and the grants that its callers hold."""

from pathlib import Path
from typing import Any

from joserfc.jwk import OKPKey

from backend.plugin.identity import EngineIdentity
from backend.plugin.judge import Judge
from tests.fakes.clock import Clock
from tests.fakes.keyring import Keyring
from wire.keyfile import KeyFile
from wire.keys import generate_supervisor, load_verifying, public_dict
from wire.seal import LIFETIME, Grant, sign_grant

BASE = "demo/base@" + "a" * 40
ADAPTER = "alice/lora@" + "b" * 40


class Engine:
    """Who may say what to the engine `gpu-0/0`, boot `boot-1`."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.clock = clock
        self.keyring = Keyring.make(folder)
        self.supervisor = generate_supervisor()
        self.identity = EngineIdentity(
            id="gpu-0/0",
            boot="boot-1",
            base=BASE,
            proxies_file=str(self.keyring.proxy_public),
            supervisor=public_dict(self.supervisor),
        )

    def judge(self) -> Judge:
        return Judge(
            self.identity, KeyFile(self.keyring.proxy_public, load_verifying, self.clock), self.clock
        )

    def grant(self, *, signing: OKPKey | None = None, **changes: Any) -> str:
        """A use grant for the base model that a proxy signs, unless told otherwise."""
        now = int(self.clock())
        claims: dict[str, Any] = {
            "kind": "use",
            "sub": "somebody",
            "model": BASE,
            "aud": "gpu-0/0",
            "boot": "boot-1",
            "jti": "1",
            "iat": now,
            "exp": now + LIFETIME,
            **changes,
        }
        return sign_grant(Grant(**claims), signing or self.keyring.proxy.signing)

    def command(self) -> str:
        """A control grant of the supervisor."""
        return self.grant(signing=self.supervisor, kind="control", model="", sub="")
