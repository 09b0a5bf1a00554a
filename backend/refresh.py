"""`hubgate backend refresh` and `hubgate reload`: ask the backend on this machine, with its own key."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import msgspec
from joserfc.jwk import KeySet

from hubgate.backend.engines.client import new_session
from hubgate.backend.engines.launcher import local_url
from hubgate.backend.settings import BackendSettings
from hubgate.runtime.config import ConfigError
from hubgate.runtime.reload import Reloaded, ReloadError
from hubgate.runtime.tls import believing
from hubgate.wire import seal
from hubgate.wire.control_api import (
    GRANT_HEADER,
    Hello,
    LoadFailed,
    Progress,
    Refreshed,
    RefreshEvent,
    RefreshRequest,
)
from hubgate.wire.endpoints import HELLO, REFRESH, RELOAD
from hubgate.wire.keys import KeyFileError, load_backend_keys
from hubgate.wire.seal import SealError, control_grant

# Silence is no fault: a large model is drained, stopped and started in between.
_PATIENCE = aiohttp.ClientTimeout(total=None, sock_connect=5)
_FAILURES = (aiohttp.ClientError, TimeoutError, OSError, msgspec.DecodeError, SealError)


def run(settings: BackendSettings, repo: str | None, say: Callable[[str], None]) -> int:
    """Refresh, and tell how it goes. Returns the exit code; raises `ConfigError`."""
    try:
        return asyncio.run(_run(settings, repo, say))
    except _FAILURES as error:
        reason = str(error) or type(error).__name__
        say(f"the backend at {url_of(settings)} cannot be asked: {reason}")
        return 1


async def _run(settings: BackendSettings, repo: str | None, say: Callable[[str], None]) -> int:
    failed, said = False, ""
    async for event in _events(settings, repo):
        line = _line(event)
        failed = failed or isinstance(event, LoadFailed)
        if line != said:  # while nothing moves, nothing is said twice
            say(line)
            said = line
    return int(failed)


async def _events(settings: BackendSettings, repo: str | None) -> AsyncIterator[RefreshEvent]:
    async for line in _asked(settings, REFRESH, msgspec.json.encode(RefreshRequest(repo=repo))):
        yield msgspec.json.decode(line, type=RefreshEvent)


def reload(settings: BackendSettings) -> Reloaded:
    """Have it read its configuration again. Raises `ConfigError`, and `ReloadError` with why it did not."""
    try:
        return asyncio.run(_reload(settings))
    except _FAILURES as error:
        reason = str(error) or type(error).__name__
        raise ReloadError(f"the backend at {url_of(settings)} cannot be asked: {reason}") from None


async def _reload(settings: BackendSettings) -> Reloaded:
    lines = [line async for line in _asked(settings, RELOAD, b"{}")]
    return msgspec.json.decode(b"".join(lines), type=Reloaded)


async def _asked(settings: BackendSettings, path: str, body: bytes) -> AsyncIterator[bytes]:
    """The lines of what the backend answers to its operator."""
    try:
        signing = load_backend_keys(settings.seal.key_file).signing
    except KeyFileError as error:
        raise ConfigError([f"seal.key_file: {error}"]) from None
    url = url_of(settings)
    async with new_session() as session:
        grant, nonce = control_grant(signing, aud=settings.name, boot="", now=time.time())
        secure = _secure(settings)
        async with session.get(
            url + HELLO, headers={GRANT_HEADER: grant}, raise_for_status=True, **secure
        ) as response:
            payload = seal.verify_hello(await response.read(), KeySet([signing]))
        hello = msgspec.json.decode(payload, type=Hello)
        if hello.nonce != nonce or hello.name != settings.name:
            raise SealError("this is another backend's hello, or an old one")
        grant, _ = control_grant(signing, aud=hello.name, boot=hello.boot, now=time.time())
        headers = {GRANT_HEADER: grant}
        async with session.post(
            url + path, data=body, headers=headers, timeout=_PATIENCE, **secure
        ) as response:
            response.raise_for_status()
            async for line in response.content:
                yield line


def _line(event: RefreshEvent) -> str:
    match event:
        case Progress() if event.stage == "downloading" and event.total:
            return f"{event.repo}: downloading, {100 * event.done // event.total}% of {event.total} bytes"
        case Progress():
            return f"{event.repo}: {event.stage}"
        case Refreshed() if event.engine_ended:
            return f"{event.repo}: its engine has ended; the next caller brings the present commit"
        case Refreshed() if event.repo == event.before:
            return f"{event.repo}: nothing to do, this is the present commit"
        case Refreshed():
            return f"{event.repo}: ready, in the place of {event.before}"
        case LoadFailed():
            return f"failed: {event.message}"


def url_of(settings: BackendSettings) -> str:
    """Where the backend of these settings is asked from the same machine."""
    return local_url(settings.listen.host, settings.listen.port, secure=settings.listen.tls is not None)


def _secure(settings: BackendSettings) -> dict[str, Any]:
    """Whom we believe is the backend; who we are is what the grants say. Raises `ConfigError`."""
    tls = settings.listen.tls
    if tls is None:
        return {}
    try:
        context = believing((tls.ca_file,), "backend")
    except KeyFileError as error:
        raise ConfigError([f"listen.tls: {error}"]) from None
    return {"ssl": context, "server_hostname": settings.name}
