"""Who may speak to the control API: a proxy whose key this backend was given, once per grant.

The operator of this machine may as well: whoever can read the backend's own key file. A proxy asks for
models, the operator for a refresh; both may ask for a hello.
"""

from collections.abc import Callable

from joserfc.jwk import KeySet

from hubgate.wire.keyfile import KeyFile
from hubgate.wire.keys import BackendKeys
from hubgate.wire.seal import Grant, ReplayGuard, ScopedToken, SealError, open_token, verify_grant

MEMORY = 100_000  # ids; each is kept for a good minute


class ControlAuth:
    """Believes grants and scoped tokens that a proxy made for this backend and this boot of it."""

    def __init__(
        self,
        name: str,
        boot: str,
        keys: KeyFile[BackendKeys],
        proxies: KeyFile[KeySet],
        clock: Callable[[], float],
    ) -> None:
        self._name = name
        self._boot = boot
        self._keys = keys
        self._proxies = proxies
        self._clock = clock
        self._grants = ReplayGuard(MEMORY, clock)
        self._tokens = ReplayGuard(MEMORY, clock)

    def grant(self, values: list[str], *, hello: bool = False, own: bool = False) -> Grant:
        """The control grant in these headers, spent. Raises `SealError`.

        A hello may be asked for without knowing the boot id, or the name: telling them is what it is for.
        With `own`, only a grant that was signed with this backend's own key counts.
        """
        if len(values) != 1:
            raise SealError("missing" if not values else "malformed")
        try:
            grant = self._verify(values[0], self._boot, hello=hello, own=own)
        except SealError as error:
            if not hello or error.reason not in ("old_boot", "wrong_audience"):
                raise
            aud = self._name if error.reason == "old_boot" else ""
            grant = self._verify(values[0], "", hello=hello, own=own, aud=aud)
        if grant.kind != "control":
            raise SealError("wrong_kind")
        self._grants.use(grant.jti, grant.exp)
        return grant

    def token(self, sealed: str) -> ScopedToken:
        """What a proxy sealed for this backend, spent. Raises `SealError`."""
        token = open_token(
            sealed,
            self._keys.current().opening,
            self._proxies.current(),
            aud=self._name,
            boot=self._boot,
            now=self._clock(),
        )
        self._tokens.use(token.jti, token.exp)
        return token

    def _verify(self, value: str, boot: str, *, hello: bool, own: bool, aud: str | None = None) -> Grant:
        ours, proxies = self._keys.current().signing, self._proxies.current()
        signers = KeySet([ours]) if own else proxies
        if hello and not own:
            signers = KeySet([*proxies.keys, ours])
        aud = self._name if aud is None else aud
        return verify_grant(value, signers, aud=aud, boot=boot, now=self._clock())
