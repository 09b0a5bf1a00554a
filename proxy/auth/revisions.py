"""Finds the commit that a revision means, and whether this proxy allows that revision.

Both are facts about the repo, not about a caller, and shared between callers. They are asked for
only after a caller's own auth-check passed, and with that caller's token.
"""

from collections.abc import Callable

from hubgate.proxy.errors import Denied
from hubgate.proxy.hub.cache import Cache
from hubgate.proxy.hub.client import HubClient
from hubgate.proxy.hub.histories import Histories
from hubgate.proxy.hub.schemas import Refs, Snapshot
from hubgate.wire.repo import RepoRef, is_sha
from hubgate.wire.secret import Secret


def shareable(fact: object) -> bool:
    """A refusal that came of one caller's token or budget is theirs alone; an outage is everybody's."""
    if isinstance(fact, Denied):
        return fact.code == "hub_unavailable" and not fact.own
    return True


class Revisions:
    """Resolves `org/name[@revision]` to a commit, within `models.revisions`."""

    def __init__(
        self,
        hub: HubClient,
        allowed: Callable[[], frozenset[str]],
        *,
        snapshots: "Cache[str, Snapshot | Denied]",
        lineages: "Cache[str, bool | Denied]",
        histories: Histories,
    ) -> None:
        self._hub = hub
        self._allowed = allowed
        self._histories = histories
        self._snapshots = snapshots
        self._lineages = lineages

    def forget_all(self) -> None:
        """Drop every fact."""
        self._snapshots.clear()
        self._lineages.clear()
        self._histories.forget_all()

    def refuse(self, repo: RepoRef) -> Denied | None:
        """Refuse at once, asking nobody, what no answer of the Hub could make right.

        Anyone can open a pull request on a trusted repo, so `refs/…` is never served.
        """
        revision = repo.revision
        if revision is None or revision == "main":
            return None  # what a name without a revision means, and what bases are served at
        if revision.startswith("refs/"):
            return _not_allowed(repo)
        return None if is_sha(revision) or self._allows("tags", "branches") else _not_allowed(repo)

    async def snapshot(self, token: Secret, repo: RepoRef, who: str = "") -> Snapshot | Denied:
        """What the repo is at its revision, once that revision is known to be an allowed one.

        `who` asks the Hub, where it has to be asked.
        """
        if repo.revision is not None and repo.revision != "main":
            held = await self._held(token, repo, repo.revision, who)
            if isinstance(held, Denied):
                return held
            if not held:
                return _not_allowed(repo)
        found = self._snapshots.fresh(str(repo))
        if found is None:
            found, _ = await self._snapshots.get(
                str(repo), lambda: self._hub.snapshot(token, repo, who), shareable=shareable
            )
        return found

    def _allows(self, *kinds: str) -> bool:
        return not self._allowed().isdisjoint({*kinds, "any"})

    async def _held(self, token: Secret, repo: RepoRef, revision: str, who: str) -> bool | Denied:
        held = self._lineages.fresh(str(repo))
        if held is None:
            held, _ = await self._lineages.get(
                str(repo), lambda: self._ask(token, repo, revision, who), shareable=shareable
            )
        return held

    async def _ask(self, token: Secret, repo: RepoRef, revision: str, who: str) -> bool | Denied:
        """Whether the revision is an allowed ref, or a commit in the history of one."""
        if is_sha(revision) and self._allows("main"):
            held = await self._histories.holds(token, repo.at("main"), revision, who)
            if held:  # True, or a Denied that ends it here
                return held
        if not self._allows("tags", "branches"):
            return False
        refs = await self._hub.refs(token, repo, who)
        if isinstance(refs, Denied):
            return refs
        return await self._among(refs, token, repo, revision, who)

    async def _among(
        self, refs: Refs, token: Secret, repo: RepoRef, revision: str, who: str
    ) -> bool | Denied:
        tags = refs.tags if self._allows("tags") else []
        branches = refs.branches if self._allows("branches") else []
        if not is_sha(revision):
            return any(ref.name == revision for ref in (*tags, *branches))
        if any(ref.target_commit == revision for ref in (*tags, *branches)):
            return True
        held: bool | Denied = False
        for ref in branches:
            held = await self._histories.holds(token, repo.at(ref.name), revision, who)
            if held:
                break
        return held


def _not_allowed(repo: RepoRef) -> Denied:
    return Denied(
        "model_not_allowed",
        f"The revision {repo.revision} of {repo.id} is not served here: only commits of its allowed "
        "branches and tags are.",
        "model",
    )
