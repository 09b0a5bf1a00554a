"""Decides, for one caller and one model, on every request, what may be used: at which commits."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from hubgate.proxy.auth.identity import Caller, Identities
from hubgate.proxy.auth.policy import ModelPolicy
from hubgate.proxy.auth.revisions import Revisions
from hubgate.proxy.errors import Denied
from hubgate.proxy.hub.cache import Cache, Source
from hubgate.proxy.hub.client import MAX_HOPS, HubClient
from hubgate.proxy.hub.schemas import Allowed, Moved, Snapshot
from hubgate.wire.bounded_map import BoundedMap
from hubgate.wire.repo import InvalidRepoError, RepoRef

AccessKey = tuple[bytes, str, bool]  # digest of the token, org/name, whether it may only read

# A model's name at other providers, such as gpt-4o or llama3:8b: no name on the Hub, and so asked of nobody.
_ELSEWHERE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,95}", re.ASCII)
MAX_CALLERS: Final = 1_000  # whose names are known
MAX_NAMED: Final = 20  # of each


@dataclass(init=False)
class Access:
    """Leave for one caller to use a base, or an adapter on its base, each pinned to a commit."""

    base: RepoRef
    adapter: RepoRef | None
    model: str  # the name it is served and answered under: `org/name@sha`

    def __init__(self, base: RepoRef, adapter: RepoRef | None = None) -> None:
        self.base = base
        self.adapter = adapter
        self.model = str(adapter or base)


class Authorizer:
    """Asks the Hub with the caller's own token; what happens to be loaded never counts."""

    def __init__(
        self,
        hub: HubClient,
        identities: Identities,
        revisions: Revisions,
        policy: ModelPolicy,
        *,
        accesses: "Cache[AccessKey, Allowed | Moved | Denied]",
        running: Callable[[str], str | None],
    ) -> None:
        self._hub = hub
        self._identities = identities
        self._revisions = revisions
        self._policy = policy
        self._accesses = accesses
        self._running = running  # org/name of a base → the sha that an engine runs
        self._named: BoundedMap[str, BoundedMap[str, RepoRef]] = BoundedMap(MAX_CALLERS)  # by `sub` and text

    def name(self, text: str, sub: str) -> RepoRef | Denied:
        """The repo that a request's `model` means: an alias, or `org/name[@revision]`.

        It is read once for each caller, and not for all: what one named would be quicker for another, who
        could tell.
        """
        mine = self._named.get(sub)
        if mine is not None and (known := mine.get(text)) is not None:
            return known
        try:
            repo = RepoRef.parse(self._policy.models.aliases.get(text, text))
        except InvalidRepoError as error:
            if _ELSEWHERE.fullmatch(text):
                told = f"The model `{text}` does not exist here: models are named org/name, as on the Hub."
                return Denied("model_not_found", told, "model")
            return Denied("invalid_request", f"Bad model name: {error}.", "model")
        # One name for the default branch, so that what is known of it is known once.
        found = repo.at(None) if repo.revision == "main" else repo
        self._remember(sub, text, found)
        return found

    def _remember(self, sub: str, text: str, repo: RepoRef) -> None:
        """Over the bounds, the oldest goes first: of one's own names by one's own doing alone."""
        mine = self._named.get(sub)
        if mine is None:
            mine = BoundedMap(MAX_NAMED)
            self._named.put(sub, mine)
        mine.put(text, repo)

    async def authorize(self, caller: Caller, asked: RepoRef) -> tuple[Access | Denied, Source]:
        """Grant or refuse. The order of questions is the same for missing and for private repos."""
        repo, source = await self._reachable(caller, asked)
        if isinstance(repo, Denied):
            return repo, source
        running = self._running(repo.id) if repo.revision in (None, "main") else None
        if running is not None:
            # An unpinned base stays on the commit that the GPU holds; see docs/design.md.
            return Access(repo.at(running)), source
        snapshot = await self._revisions.snapshot(caller.token, repo, caller.identity.sub)
        if isinstance(snapshot, Denied):
            return snapshot, "hub"
        if not snapshot.adapter:
            return Access(snapshot.repo), source
        base = await self._base_of(caller, snapshot)
        if isinstance(base, Denied):
            return base, "hub"
        return Access(base, snapshot.repo), source

    async def refusal(self, caller: Caller, repo: RepoRef) -> Denied | None:
        """Why this caller may not read the repo, if so: what listings are filtered by."""
        reachable, _ = await self._reachable(caller, repo)
        return reachable if isinstance(reachable, Denied) else None

    def forget_all(self) -> None:
        """Drop what the Hub said of access and of revisions."""
        self._named.clear()  # an alias may mean another one
        self._accesses.clear()
        self._revisions.forget_all()

    async def _reachable(self, caller: Caller, asked: RepoRef) -> tuple[RepoRef | Denied, Source]:
        """The repo under its present name, if policy and the Hub both allow it to this caller."""
        repo = asked
        source: Source = "cache"
        for _ in range(MAX_HOPS):
            refused = self._policy.check(caller.identity, repo) or self._revisions.refuse(repo)
            if refused is not None:
                return refused, source
            key = self._key(caller, repo)
            answer = self._accesses.fresh(key)
            if answer is None:
                answer, source = await self._ask(caller, repo, key)
            match answer:
                case Allowed():
                    return repo, source
                case Moved(target):
                    repo = target if repo.revision is None else target.at(repo.revision)
                case Denied():
                    return answer, source
        return Denied("hub_unavailable", "The Hub moves this model in circles.", retry_after=60), source

    def _key(self, caller: Caller, repo: RepoRef) -> AccessKey:
        # whoami tells no role of an OAuth token, so that each repo's own check has to show it.
        return caller.digest, repo.id, caller.identity.kind == "oauth"

    async def _ask(
        self, caller: Caller, repo: RepoRef, key: AccessKey
    ) -> tuple[Allowed | Moved | Denied, Source]:
        return await self._accesses.get(key, lambda: self._check(caller, repo.at(None), reader=key[2]))

    async def _check(self, caller: Caller, repo: RepoRef, *, reader: bool) -> Allowed | Moved | Denied:
        who = caller.identity.sub
        answer = await self._hub.auth_check(caller.token, repo, who)
        if reader and isinstance(answer, Allowed):
            answer = await self._hub.reads_only(caller.token, repo, who)
        if isinstance(answer, Denied) and answer.status == 401:
            self._identities.forget(caller)  # once for each time that the Hub says so
        return answer

    async def _base_of(self, caller: Caller, adapter: Snapshot) -> RepoRef | Denied:
        """The base that the adapter's own config names, pinned, and checked like any other repo."""
        named = self._policy.models.base_map.get(adapter.base, adapter.base)
        try:
            base = RepoRef.parse(named)
        except InvalidRepoError:
            return Denied(
                "adapter_rejected",
                f"{adapter.repo.id} names no base model on the Hub in its adapter_config.json; "
                "the operator can map the name it gives in models.base_map.",
                "model",
            )
        if self._policy.models.require_base_access:
            reachable, _ = await self._reachable(caller, base)
            if isinstance(reachable, Denied):
                return reachable
            base = reachable
        elif refused := self._policy.check(caller.identity, base):
            return refused
        if base.revision is None and (running := self._running(base.id)):
            return base.at(running)
        snapshot = await self._revisions.snapshot(caller.token, base, caller.identity.sub)
        if isinstance(snapshot, Denied):
            return snapshot
        if snapshot.adapter:
            return Denied(
                "adapter_rejected", f"{base.id} is an adapter itself and cannot be a base.", "model"
            )
        return snapshot.repo
