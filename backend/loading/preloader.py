"""Keeps the configured base models running, with the service token: the environment scheme."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import structlog

from hubgate.backend.downloads.fetcher import Fetcher
from hubgate.backend.downloads.messages import Failure
from hubgate.backend.engines.supervisor import Supervisor
from hubgate.backend.loading.model_loader import ModelLoader
from hubgate.backend.settings import Preload
from hubgate.runtime.service_token import ServiceToken
from hubgate.wire.control_api import LoadFailed, Ready, Refreshed, RefreshEvent
from hubgate.wire.repo import RepoRef, is_sha
from hubgate.wire.secret import Secret

RETRY = 10.0  # seconds

log = structlog.get_logger()


class Preloader:
    """One task for each model: resolve its revision once, then have it ready whenever it is not.

    `_wanted` holds the commit of each, which `keep` sets at first and only `refresh` changes: a new
    README must not swap the GPU.
    """

    def __init__(
        self,
        preload: Sequence[Preload],
        fetcher: Fetcher,
        loader: ModelLoader,
        supervisor: Supervisor,
        token: ServiceToken | None,
    ) -> None:
        self._preload = {one.repo: one for one in preload}
        self._fetcher = fetcher
        self._loader = loader
        self._supervisor = supervisor
        self._token = token
        self._wanted: dict[str, RepoRef] = {}
        self._refreshing = asyncio.Lock()

    def replace(self, preload: Sequence[Preload]) -> None:
        """Know of these and no others; `keep` is to be begun for those that are new, and ended for others."""
        self._preload = {one.repo: one for one in preload}
        for repo in [repo for repo in self._wanted if repo not in self._preload]:
            del self._wanted[repo]

    async def keep(self, preload: Preload) -> None:
        """Forever: run this model. A failure is logged and tried again."""
        self._want(await self._resolved(preload))
        while True:
            wait = await self._once(self._wanted[preload.repo])
            if wait is not None:
                await asyncio.sleep(wait)

    async def refresh(self, repo: str | None) -> AsyncGenerator[RefreshEvent, None]:
        """Serve models at what their revision points to now: one repo, or all that are preloaded.

        One after the other: fetched while the old one still answers, then drained and started anew. The
        engine of a repo that is not preloaded is ended; its next caller brings the present commit.
        """
        async with self._refreshing:
            for one in [repo] if repo is not None else list(self._preload):
                events = self._refresh(self._preload[one]) if one in self._preload else self._end(one)
                async with aclosing(events):
                    async for event in events:
                        yield event

    async def _refresh(self, preload: Preload) -> AsyncGenerator[RefreshEvent, None]:
        base = await self._resolve(preload)
        if isinstance(base, Failure):
            message = f"{preload.repo} cannot be resolved: {self._explained(base.message)}"
            yield LoadFailed(code=base.code, message=message, repo=preload.repo, retry_after=base.retry_after)
            return
        before = self._wanted.get(preload.repo, base)
        if before != base:
            async with aclosing(self._loader.fetch(base, self._secret())) as fetching:
                async for progress in fetching:
                    yield progress
                    if isinstance(progress, LoadFailed):
                        return
            log.info("preload.refreshed", base=str(base), before=str(before))
            self._want(base)  # from here on the old commit is not started any more
            await self._supervisor.end(before, "refresh")
        async with aclosing(self._loader.follow(self._loader.preload(base, self._secret()))) as events:
            async for event in events:
                if isinstance(event, Ready):
                    yield Refreshed(repo=str(base), before=str(before))
                else:
                    yield event

    async def _end(self, repo: str) -> AsyncGenerator[RefreshEvent, None]:
        engines = self._supervisor.running(repo)
        if not engines:
            yield LoadFailed(
                code="no_capacity", message=f"{repo} is neither preloaded nor running", repo=repo
            )
        for engine in engines:
            await self._supervisor.end(engine.base, "refresh")
            yield Refreshed(repo=str(engine.base), before=str(engine.base), engine_ended=True)

    def _want(self, base: RepoRef) -> None:
        self._wanted[base.id] = base
        self._supervisor.pin(base)

    async def _resolve(self, preload: Preload) -> RepoRef | Failure:
        repo = RepoRef.parse(preload.repo)
        if is_sha(preload.revision):
            return repo.at(preload.revision)
        answer = await self._fetcher.resolve(repo.at(preload.revision), self._secret())
        return answer if isinstance(answer, Failure) else repo.at(answer)

    async def _resolved(self, preload: Preload) -> RepoRef:
        while isinstance(answer := await self._resolve(preload), Failure):
            message = self._explained(answer.message)
            log.error("preload.unresolved", repo=preload.repo, code=answer.code, message=message)
            await asyncio.sleep(answer.retry_after or RETRY)
        return answer

    async def _once(self, base: RepoRef) -> float | None:
        """Have it ready and wait for its end. Returns the seconds to wait after a failure."""
        last = None
        async for event in self._loader.follow(self._loader.preload(base, self._secret())):
            last = event
        if isinstance(last, Ready):
            log.info("preload.ready", base=str(base), engine=last.engine.id)
            await self._supervisor.ended(base)
            return None
        if isinstance(last, LoadFailed):
            message = self._explained(last.message)
            log.error("preload.failed", base=str(base), code=last.code, message=message)
            return float(last.retry_after or RETRY)
        return RETRY

    def _explained(self, message: str) -> str:
        """What is wrong with the token that was not used, before what came of that."""
        fault = self._token.fault if self._token else None
        return f"{fault}; without it: {message}" if fault else message

    def _secret(self) -> Secret | None:
        return self._token.read() if self._token else None
