"""Signs grants, and reuses each until half of its life is over: signing costs about 90 µs.

One that is younger than now was made before the clock was set back: engines would refuse it for as long
as it takes the clock to come there again.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from hubgate.wire.bounded_map import BoundedMap
from hubgate.wire.control_api import EngineInfo
from hubgate.wire.keys import ProxyKeys
from hubgate.wire.seal import LIFETIME, Grant, control_grant, sign_grant

CAPACITY = 10_000
WEIGHT: Final = 100  # the one that goes without saying

_Key = tuple[str, str, str, str, int, float | None]


@dataclass(frozen=True)
class _Signed:
    value: str
    reusable_from: float
    reusable_until: float


class GrantSigner:
    """One proxy's grants: leave for an identity to use one model on one engine."""

    def __init__(self, keys: Callable[[], ProxyKeys], now: Callable[[], float]) -> None:
        self._keys = keys
        self._now = now
        self._known: BoundedMap[_Key, _Signed] = BoundedMap(CAPACITY)

    def use(
        self, sub: str, model: str, engine: EngineInfo, weight: int = WEIGHT, patience: float | None = None
    ) -> str:
        """The `X-Hubgate-Grant` of a forwarded request; what the engine does not read is left out."""
        now = self._now()
        key = (sub, model, engine.id, engine.boot, weight, patience)
        signed = self._known.get(key)
        if signed is not None and signed.reusable_from <= now < signed.reusable_until:
            return signed.value
        grant = Grant(
            kind="use",
            sub=sub,
            model=model,
            aud=engine.id,
            boot=engine.boot,
            jti=secrets.token_hex(16),
            iat=int(now),
            exp=int(now) + LIFETIME,
            weight=weight if "weight" in engine.claims else WEIGHT,
            patience=patience if "patience" in engine.claims else None,
        )
        signed = _Signed(sign_grant(grant, self._keys().signing), now, now + LIFETIME / 2)
        self._known.put(key, signed)
        return signed.value

    def control(self, aud: str, boot: str) -> tuple[str, str]:
        """A fresh grant for one call of a backend's control API, and its jti."""
        return control_grant(self._keys().signing, aud=aud, boot=boot, now=self._now())
