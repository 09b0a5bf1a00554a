"""Mistakes that others have made, put into the proxy: a campaign that does not find them proves nothing."""

from typing import Any

import pytest

from hubgate.proxy.auth import bearer
from hubgate.proxy.auth.authorization import Access, AccessKey, Authorizer
from hubgate.proxy.auth.identity import Caller, Identities
from hubgate.proxy.context import RequestContext
from hubgate.proxy.errors import Denied
from hubgate.proxy.gateway import Gateway
from hubgate.wire.repo import RepoRef
from hubgate.wire.secret import Secret


def access_by_repo_alone(patch: pytest.MonkeyPatch) -> None:
    """One caller's leave to read a repo is everybody's: vLLM's LoRA resolvers, LoRAX issue 479."""

    def key(_self: Authorizer, _caller: Caller, repo: RepoRef) -> AccessKey:
        return b"", repo.id, False

    patch.setattr(Authorizer, "_key", key)


def warm_skips_authorization(patch: pytest.MonkeyPatch) -> None:
    """What an engine holds is served without a question."""
    authorize = Gateway._authorize

    async def skip(self: Gateway, context: RequestContext, caller: Caller, name: str) -> Access | Denied:
        for upstream in self.pool._upstreams:
            for engine in upstream.engines.values():
                for adapter in engine.adapters:
                    if RepoRef.parse(adapter).id == name.partition("@")[0]:
                        return Access(RepoRef.parse(engine.base), RepoRef.parse(adapter))
        return await authorize(self, context, caller, name)

    patch.setattr(Gateway, "_authorize", skip)


def a_load_stretches_the_bound(patch: pytest.MonkeyPatch) -> None:
    """What was decided before a load still counts after it, however long that took: once our own."""
    authorize = Gateway._authorize

    async def once(self: Gateway, context: RequestContext, caller: Caller, name: str) -> Access | Denied:
        if context.cold and context.access is not None:
            return context.access
        return await authorize(self, context, caller, name)

    patch.setattr(Gateway, "_authorize", once)


def identity_by_token_prefix(patch: pytest.MonkeyPatch) -> None:
    """A cache keyed by the first 20 characters of a token: LiteLLM, CVE-2026-35030."""

    async def resolve(self: Identities, secret: Secret, client: str) -> tuple[Caller | Denied, Any]:
        assert bearer.is_hub_token(secret)
        digest = Secret(secret.reveal()[:20]).digest(self._digest_key)
        identity, source = await self._cache.get(digest, lambda: self._ask(secret, client))
        return (identity if isinstance(identity, Denied) else Caller(identity, secret, digest)), source

    patch.setattr(Identities, "resolve", resolve)
