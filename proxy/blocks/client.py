"""Asks the admin ports of proxies, for the commands `hubgate block` and `hubgate unblock`."""

import http.client
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import msgspec

from hubgate.proxy.blocks.messages import PATH, AddBlock, AdminError, Blocks, Change
from hubgate.proxy.settings import Admin
from hubgate.wire.secret import Secret

TIMEOUT = 10.0  # seconds
MAX_ANSWER = 32 * 1024 * 1024  # bytes

Answer = TypeVar("Answer")


class RefusedError(Exception):
    """A proxy did not do as it was told, and why."""


def parse_url(text: str) -> str:
    """Where an admin port is: `http://host:port`. Raises `ValueError`."""
    try:
        url = urlsplit(text)
        plain = url.scheme == "http" and url.hostname and url.port and url.path in ("", "/")
    except ValueError:
        plain = False
    if not plain or url.username or url.password or url.query or url.fragment:
        raise ValueError("must be http://host:port, as in `admin:` of that proxy's configuration")
    return f"http://{url.netloc}"


def local_url(admin: Admin) -> str:
    """Where the admin port of a proxy on this machine is."""
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(admin.host, admin.host)
    return f"http://{f'[{host}]' if ':' in host and host[0] != '[' else host}:{admin.port}"


@dataclass(frozen=True, slots=True)
class AdminPort:
    """One proxy's admin port, at a URL as `parse_url` gives it. Every method raises `RefusedError`."""

    url: str
    key: Secret

    def block(self, asked: AddBlock) -> Change:
        """Have somebody locked out."""
        return self._ask("POST", PATH, Change, msgspec.json.encode(asked))

    def unblock(self, who: str) -> Change:
        """Have somebody let in again."""
        return self._ask("DELETE", f"{PATH}/{quote(who, safe='')}", Change)

    def listed(self) -> Blocks:
        """Who is locked out."""
        return self._ask("GET", PATH, Blocks)

    def _ask(self, method: str, path: str, kind: type[Answer], body: bytes | None = None) -> Answer:
        # Not urllib.request: that obeys HTTP_PROXY, which the key must not be sent to.
        where = urlsplit(self.url)
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=TIMEOUT)
        try:
            connection.request(method, path, body, {"Authorization": f"Bearer {self.key.reveal()}"})
            response = connection.getresponse()
            data = response.read(MAX_ANSWER)
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise RefusedError(f"cannot be asked: {reason}") from None
        finally:
            connection.close()
        return _read(response.status, data, kind)


def _read(status: int, data: bytes, kind: type[Answer]) -> Answer:
    try:
        if status in (200, 503):
            return msgspec.json.decode(data, type=kind)
        reason: Any = msgspec.json.decode(data, type=AdminError).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        reason = f"answers {status}; is this a proxy's admin port?"
    raise RefusedError(reason)
