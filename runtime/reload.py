"""`hubgate reload`: asking a program on this machine to read its configuration again, and what it answers.

Who can read the key file of a program may ask it to: a grant that is signed with that key proves it, and
nothing else has to be configured.
"""

from typing import Final

import msgspec
from joserfc.jwk import KeySet, OKPKey

from hubgate.wire.seal import Grant, ReplayGuard, SealError, control_grant, verify_grant

AUDIENCE: Final = "/reload"  # on a proxy's admin port; no backend can be called so
MEMORY: Final = 1000  # ids of grants


class ReloadError(Exception):
    """A program was not asked, or did not answer. The text says which, and why."""


class Reloaded(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What came of it. With `faults` nothing was changed; `need_restart` names what will count later."""

    changed: tuple[str, ...] = ()
    need_restart: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()


def grant(signing: OKPKey, now: float) -> str:
    """What a proxy's operator presents."""
    return control_grant(signing, aud=AUDIENCE, boot="", now=now)[0]


class OwnGrants:
    """Believes those that were signed with the program's own key, once each."""

    def __init__(self, now: float) -> None:
        self._now = now
        self._used = ReplayGuard(MEMORY, lambda: self._now)

    def believe(self, values: list[str], signing: OKPKey, now: float) -> Grant:
        """The grant in these headers, spent. Raises `SealError`."""
        self._now = now
        if len(values) != 1:
            raise SealError("missing" if not values else "malformed")
        found = verify_grant(values[0], KeySet([signing]), aud=AUDIENCE, boot="", now=now)
        if found.kind != "control":
            raise SealError("wrong_kind")
        self._used.use(found.jti, found.exp)
        return found
