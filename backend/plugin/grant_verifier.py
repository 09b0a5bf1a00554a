"""Whether a grant is to be believed by this engine. Checked once, remembered until it ends."""

from collections.abc import Callable

from joserfc.jwk import KeySet, OKPKey

from hubgate.backend.plugin.engine_identity import EngineIdentity
from hubgate.wire.bounded_map import BoundedMap
from hubgate.wire.keyfile import KeyFile
from hubgate.wire.seal import LEEWAY, Grant, SealError, verify_grant

CAPACITY = 8192  # grants; one is made for each identity and model every half minute


class GrantVerifier:
    """Proxies may grant use, the supervisor may command; neither may do what is the other's."""

    def __init__(
        self, identity: EngineIdentity, proxies: KeyFile[KeySet], clock: Callable[[], float]
    ) -> None:
        self._identity = identity
        self._proxies = proxies
        self._supervisor = KeySet([OKPKey.import_key(identity.supervisor)])
        self._clock = clock
        self._believed: BoundedMap[str, Grant] = BoundedMap(CAPACITY)
        self._keys: KeySet | None = None

    def believe(self, value: str) -> Grant | None:
        """The grant in this header, or `None` if it is not to be believed."""
        keys = self._proxies.current()
        if keys is not self._keys:  # rotated: what an old key signed is judged anew
            self._keys = keys
            self._believed.clear()
        now = self._clock()
        known = self._believed.get(value)
        if known is not None and known.exp + LEEWAY >= now:
            return known
        grant = self._verify(value, keys, now)
        if grant is not None and grant.kind == "use":
            self._believed.put(value, grant)
        return grant

    def _verify(self, value: str, keys: KeySet, now: float) -> Grant | None:
        believed: tuple[tuple[KeySet, str], ...] = ((keys, "use"), (self._supervisor, "control"))
        for signers, kind in believed:
            try:
                grant = verify_grant(value, signers, aud=self._identity.id, boot=self._identity.boot, now=now)
            except SealError:
                continue
            return grant if grant.kind == kind else None
        return None
