"""An engine's identity and the grants that its callers hold."""

from pathlib import Path
from typing import Any

from joserfc.jwk import OKPKey

from hubgate.backend.plugin.engine_identity import EngineIdentity
from hubgate.backend.plugin.grant_verifier import GrantVerifier
from hubgate.wire.keyfile import KeyFile
from hubgate.wire.keygen import generate_supervisor
from hubgate.wire.keys import load_verifying, public_dict
from hubgate.wire.seal import LIFETIME, Grant, sign_grant
from tests.fakes.clock import Clock
from tests.fakes.keyring import Keyring

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

    def verifier(self) -> GrantVerifier:
        return GrantVerifier(
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
