"""A string that cannot be printed by accident."""

import hashlib
import hmac
from typing import Never


class Secret:
    """Holds a credential; every way of formatting it gives `***`.

    The value comes out through `reveal()` only, so a search for that word finds each place where
    a secret leaves its wrapper.
    """

    __slots__ = ("_last", "_value")

    def __init__(self, value: str) -> None:
        self._value = value
        self._last: tuple[bytes, bytes] | None = None  # the key of the last digest, and the digest

    def reveal(self) -> str:
        """The secret itself. Pass it on at once; never keep, log or format it."""
        return self._value

    def digest(self, key: bytes) -> bytes:
        """32 bytes of keyed BLAKE2b (RFC 7693) over the whole secret: what caches are keyed with.

        A third of an HMAC's time, and asked for by each request; it means nothing outside of this process.
        """
        last = self._last
        if last is None or last[0] != key:
            last = key, hashlib.blake2b(self._value.encode(), key=key, digest_size=32).digest()
            self._last = last
        return last[1]

    def hmac(self, key: bytes) -> bytes:
        """32 bytes of HMAC-SHA256 over the whole secret: what names are derived from."""
        return hmac.digest(key, self._value.encode(), "sha256")

    def __repr__(self) -> str:
        return "***"

    def __str__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> Never:
        raise TypeError("a Secret is never a key: a dict of secrets would keep them; use digest()")

    def __reduce__(self) -> Never:
        raise TypeError("a Secret is never pickled")
