"""Keeps the configured base models running, with the service token: the environment scheme."""

import asyncio

import structlog

from backend.fetch import Fetcher
from backend.jobs import Failure
from backend.loads import Loads
from backend.settings import Preload
from backend.supervisor import Supervisor
from runtime.service_token import ServiceToken
from wire.control import Failed, Ready
from wire.repo import RepoRef, is_sha
from wire.secret import Secret

RETRY = 10.0  # seconds

log = structlog.get_logger()


class Preloader:
    """One task for each model: resolve its revision once, then have it ready whenever it is not."""

    def __init__(
        self, fetcher: Fetcher, loads: Loads, supervisor: Supervisor, token: ServiceToken | None
    ) -> None:
        self._fetcher = fetcher
        self._loads = loads
        self._supervisor = supervisor
        self._token = token

    async def keep(self, preload: Preload) -> None:
        """Forever: run this model. A failure is logged and tried again."""
        base = await self._resolve(preload)
        self._supervisor.pin(base)
        while True:
            wait = await self._once(base)
            if wait is not None:
                await asyncio.sleep(wait)

    async def _resolve(self, preload: Preload) -> RepoRef:
        """The commit that is served until the backend restarts: a new README must not swap the GPU."""
        repo = RepoRef.parse(preload.repo)
        if is_sha(preload.revision):
            return repo.at(preload.revision)
        while True:
            answer = await self._fetcher.resolve(repo.at(preload.revision), self._secret())
            if not isinstance(answer, Failure):
                return repo.at(answer)
            log.error("preload.unresolved", repo=preload.repo, code=answer.code, message=answer.message)
            await asyncio.sleep(answer.retry_after or RETRY)

    async def _once(self, base: RepoRef) -> float | None:
        """Have it ready and wait for its end. Returns the seconds to wait after a failure."""
        last = None
        async for event in self._loads.follow(self._loads.preload(base, self._secret())):
            last = event
        if isinstance(last, Ready):
            log.info("preload.ready", base=str(base), engine=last.engine.id)
            await self._supervisor.ended(base)
            return None
        if isinstance(last, Failed):
            log.error("preload.failed", base=str(base), code=last.code, message=last.message)
            return float(last.retry_after or RETRY)
        return RETRY

    def _secret(self) -> Secret | None:
        return self._token.read() if self._token else None
