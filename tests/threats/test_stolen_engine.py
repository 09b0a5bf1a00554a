"""threats.md, row 45: whoever takes an engine over holds nothing that opens or grants anything."""

import hmac
import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec
import psutil
import pytest
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, OKPKey
from joserfc.util import urlsafe_b64decode

from hubgate.backend import app as backend_app
from hubgate.backend.plugin.engine_identity import VARIABLE, EngineIdentity, read
from hubgate.backend.plugin.grant_verifier import GrantVerifier
from hubgate.wire.control_api import GRANT_HEADER
from hubgate.wire.keyfile import KeyFile
from hubgate.wire.keygen import generate_supervisor
from hubgate.wire.keys import load_verifying
from hubgate.wire.seal import Grant, SealError, open_token, sign_grant
from tests.backend.harness import FAKE, Running
from tests.e2e.scanner import written_memory
from tests.fakes.running_proxy import ALICE, BOB, PRIVATE
from tests.threats.stack import Stack
from tests.wire.tokens import unpadded

_CODE = str(Path(FAKE).parents[2])
_JWS = re.compile(rb"eyJ[A-Za-z0-9_-]{20,200}\.[A-Za-z0-9_-]{50,600}\.[A-Za-z0-9_-]{86}")


class Loot:
    """All that an engine's process holds: memory, environment, argv, and every file that these lead to."""

    def __init__(self, process: psutil.Process) -> None:
        pid = process.pid
        self.environ = process.environ()
        told = [*self.environ.values(), *process.cmdline()]
        told += [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
        identity = read(Path(self.environ[VARIABLE]))
        told += [str(value) for value in msgspec.to_builtins(identity).values()]
        self.identity = identity
        self.files = {path: path.read_bytes() for path in set(_named(told))}
        self.memory = list(written_memory(process))
        self.text = [Path(f"/proc/{pid}/{part}").read_bytes() for part in ("environ", "cmdline")]

    def has(self, secret: bytes) -> bool:
        """Whether these bytes are in it anywhere."""
        return any(secret in data for data in (*self.text, *self.files.values(), *self.memory))

    @property
    def keys(self) -> list[OKPKey]:
        """Every key that it holds."""
        found = [self.identity.supervisor]
        for data in self.files.values():
            try:
                content = json.loads(data)
            except ValueError:
                continue
            found += content.get("keys", []) if isinstance(content, dict) else []
        return [OKPKey.import_key(key) for key in found]

    @property
    def grants(self) -> set[str]:
        """Every signed token that lies in its memory."""
        return {found.decode() for data in self.memory for found in _JWS.findall(data)}


def _named(told: list[str]) -> Iterator[Path]:
    """Files that a text names, and those below folders; the system's, Python's and our code are no secret."""
    public = ("/usr", "/bin", "/lib", "/etc", "/dev", "/proc", "/sys", sys.prefix, sys.base_prefix, _CODE)
    for text in told:
        path = Path(text)
        if not path.is_absolute() or text == "/" or text.startswith(public):
            continue
        if path.is_file():
            yield path
        elif path.is_dir():
            yield from (below for below in path.rglob("*") if below.is_file())


def _engine() -> psutil.Process:
    """The engine's process of this test, and not the reaper above it."""
    ours = psutil.Process().children(recursive=True)
    (engine,) = [one for one in ours if one.cmdline()[1:2] == [FAKE]]
    return engine


def _private(path: Path) -> list[str]:
    """The private parts of a key file, as they are written there."""
    keys = json.loads(path.read_text(encoding="utf-8"))["keys"]
    return [key.get("d") or key["k"] for key in keys]


def _claims(identity: EngineIdentity, **changes: Any) -> Grant:
    now = int(time.time())
    claims: dict[str, Any] = {"kind": "use", "sub": "thief", "model": identity.base, "aud": identity.id}
    return Grant(**{**claims, "boot": identity.boot, "jti": "1", "iat": now, "exp": now + 60, **changes})


def _forged(key: OKPKey, grant: Grant) -> Iterator[str]:
    """A grant made with a key that cannot sign: as it is, as an HMAC's secret, and with no signature."""
    with pytest.raises(JoseError):
        sign_grant(grant, key)
    for alg in ("HS256", "none", "Ed25519", "EdDSA"):
        header = {"alg": alg, "kid": key.kid, "typ": "hubgate-grant"}
        signed = f"{unpadded(msgspec.json.encode(header))}.{unpadded(msgspec.json.encode(grant))}"
        yield f"{signed}."
        for secret in (key.as_bytes(), msgspec.json.encode(key.as_dict(private=False))):
            yield f"{signed}.{unpadded(hmac.digest(secret, signed.encode(), 'sha256'))}"


async def _status(backend: Running, method: str, url: str, grant: str) -> int:
    async with backend.session.request(method, url, headers={GRANT_HEADER: grant}, json={}) as response:
        return response.status


async def test_row_45_a_stolen_engine_can_neither_grant_nor_open(tmp_path: Path) -> None:
    """With its memory, environment, argv and files: no private key, no token, no grant, nothing opened."""
    supervisor = generate_supervisor()
    with patch.object(backend_app, "generate_supervisor", lambda: supervisor):
        async with Stack.start(tmp_path) as stack:
            assert (await stack.chat(PRIVATE, ALICE)).status == 200
            (engine,) = (await stack.backend.hello()).engines
            keyring, url = stack.backend.keyring, f"http://127.0.0.1:{engine.port}"
            loot = Loot(_engine())
            sealed = await stack.backend.scoped(engine.base, who="bob")
            forged = [value for key in loot.keys for value in _forged(key, _claims(loot.identity))]
            forged += [
                value
                for key in loot.keys
                for value in _forged(key, _claims(loot.identity, kind="control", model="", aud="gpu-0"))
            ]
            for value in forged:
                assert await _status(stack.backend, "POST", f"{url}/v1/completions", value) == 401
            for value in {*forged[::4], *loot.grants}:  # its own, recorded ones too
                assert await _status(stack.backend, "POST", f"{stack.backend.url}/v1/ensure", value) == 401
                assert await _status(stack.backend, "GET", f"{stack.backend.url}/v1/hello", value) == 401
    secrets = [*_private(keyring.proxy_private), *_private(keyring.backend_private)]
    secrets.append(str(supervisor.as_dict(private=True)["d"]))
    assert len(secrets) == 5
    for secret in secrets:
        assert not loot.has(secret.encode())
        assert not loot.has(urlsafe_b64decode(secret.encode()))
    for token in (ALICE, BOB, stack.hub.token("service")):
        assert not loot.has(token.encode())
    # The search itself works: what it verifies with is there, in memory and in a file.
    assert loot.has(str(keyring.proxies.keys[0].as_dict(private=False)["x"]).encode())
    assert loot.has(engine.boot.encode())
    assert len(loot.keys) == 2
    assert loot.grants
    _opens_nothing(loot, sealed, keyring.proxies)
    _counts_nowhere_else(loot, keyring.proxy_public)


def _opens_nothing(loot: Loot, sealed: str, proxies: KeySet) -> None:
    """A scoped token, recorded on its way, is not opened by any key of the engine's."""
    for key in loot.keys:
        with pytest.raises(SealError, match="undecipherable"):
            open_token(sealed, KeySet([key]), proxies, aud="gpu-0", boot="", now=time.time())


def _counts_nowhere_else(loot: Loot, proxies: Path) -> None:
    """The grants that it has received are believed by no other engine, and by no later boot of it."""
    keys = KeyFile(proxies, load_verifying, time.monotonic)
    own = GrantVerifier(loot.identity, keys, time.time)
    assert [value for value in loot.grants if own.believe(value)]
    for changes in ({"id": "gpu-0/1"}, {"boot": "0" * 32}, {"id": "gpu-1/0"}):
        other = GrantVerifier(msgspec.structs.replace(loot.identity, **changes), keys, time.time)
        assert not [value for value in loot.grants if other.believe(value)]
