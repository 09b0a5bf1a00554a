"""What the proxy asks the Hub: whoami, auth-check, revisions, adapter configs. Answers are values.

How it is asked is `questions`' job, what a no means is `refusals`'.
"""

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from hubgate.proxy.errors import Denied
from hubgate.proxy.frozen_struct import FrozenStruct
from hubgate.proxy.hub.errors import HubErrors
from hubgate.proxy.hub.schemas import (
    MAX_NAME,
    Allowed,
    Commit,
    HubResponse,
    ModelInfo,
    Moved,
    Refs,
    Snapshot,
    WhoAmI,
    unavailable,
)
from hubgate.proxy.hub.transport import HubTransport
from hubgate.wire.json_bounds import MAX_ADAPTER_CONFIG, is_excessive
from hubgate.wire.repo import InvalidRepoError, RepoRef, is_sha
from hubgate.wire.secret import Secret

MAX_HOPS = 3
MAX_VERDICT = 64 * 1024  # bytes of an answer that says yes or no

_MOVED = re.compile(r"/api/models/(.+)/auth-check")  # what is found is read as a RepoRef
_NEXT = re.compile(r'<([^>]+)>\s*;\s*rel="next"')  # RFC 8288, section 3


class Page(FrozenStruct):
    """A part of a history, the newest commit first, and the path of the next part."""

    commits: Sequence[str]
    following: str | None


class HubClient:
    """One Hub, asked with the caller's token and never with another.

    `who` asks, whatever their token: turns are shared among those (`fair_turns`).
    """

    def __init__(self, transport: HubTransport, errors: HubErrors) -> None:
        self._transport = transport
        self._errors = errors

    async def whoami(self, token: Secret, who: str = "") -> WhoAmI | Denied:
        """Whose token this is (`GET /api/whoami-v2`)."""
        answer = await self._transport.ask("whoami", "/api/whoami-v2", token, who=who)
        if isinstance(answer, Denied):
            return answer
        if answer.status != 200:
            return self._errors.of_token(answer) if answer.status == 401 else unavailable()
        facts: WhoAmI | Denied = answer.decode(WhoAmI)
        return facts

    async def auth_check(self, token: Secret, repo: RepoRef, who: str = "") -> Allowed | Moved | Denied:
        """Whether the token may read the repo's files (`GET /api/models/{id}/auth-check`)."""
        path = f"/api/models/{repo.id}/auth-check"
        answer = await self._transport.ask("auth-check", path, token, MAX_VERDICT, who=who)
        if isinstance(answer, Denied):
            return answer
        if answer.opens:
            return Allowed()
        return self._moved(answer) if answer.redirects else self._errors.of_repo(answer, repo)

    async def reads_only(self, token: Secret, repo: RepoRef, who: str = "") -> Allowed | Denied:
        """Whether a token that may read this repo may do no more (`GET …/auth-check/write`).

        The call is that of huggingface_hub's `auth_check(write=True)`. Its yes is our no; and its no
        counts only in the Hub's own words, since a 403 without any may come from something between.
        """
        path = f"/api/models/{repo.id}/auth-check/write"
        answer = await self._transport.ask("write-check", path, token, MAX_VERDICT, who=who)
        if isinstance(answer, Denied):
            return answer
        match answer.status:
            case 200 if answer.opens:
                return self._errors.writes(repo)
            case 403 if answer.reason:
                return Allowed()
            case 401:
                return self._errors.of_token(answer)
            case 403 | 404:
                return self._errors.may_write(repo)
            case _:
                return unavailable()

    async def snapshot(self, token: Secret, repo: RepoRef, who: str = "") -> Snapshot | Denied:
        """Which commit the revision is, and what kind of repo it is there."""
        revision = quote(repo.revision or "main", safe="")
        path = f"/api/models/{repo.id}/revision/{revision}"
        answer = await self._transport.ask("revision", path, token, who=who)
        if isinstance(answer, Denied):
            return answer
        if answer.status != 200:
            return self._errors.of_repo(answer, repo)
        info = answer.decode(ModelInfo)
        if isinstance(info, Denied):
            return info
        if info.id != repo.id:
            return _renamed(info.id)
        pinned = repo.at(info.sha)
        if not pinned.pinned:
            return unavailable()
        if not any(file.rfilename == "adapter_config.json" for file in info.siblings):
            return Snapshot(pinned, adapter=False)
        return await self._adapter(token, pinned, who)

    async def refs(self, token: Secret, repo: RepoRef, who: str = "") -> Refs | Denied:
        """The repo's branches and tags (`GET /api/models/{id}/refs`)."""
        answer = await self._transport.ask("refs", f"/api/models/{repo.id}/refs", token, who=who)
        if isinstance(answer, Denied):
            return answer
        if answer.status != 200:
            return self._errors.of_repo(answer, repo)
        refs: Refs | Denied = answer.decode(Refs)
        return refs

    async def commits(
        self, token: Secret, repo: RepoRef, path: str | None = None, who: str = ""
    ) -> Page | Denied:
        """A page of the history of the repo's revision: its first one, or what stands at `path`."""
        first = f"/api/models/{repo.id}/commits/{quote(repo.revision or 'main', safe='')}"
        answer = await self._transport.ask("commits", path or first, token, who=who)
        if isinstance(answer, Denied):
            return answer
        if answer.status != 200:
            return self._errors.of_repo(answer, repo)
        commits = answer.decode(list[Commit])
        if isinstance(commits, Denied):
            return commits
        return Page([commit.id for commit in commits if is_sha(commit.id)], self._next_page(answer))

    async def _adapter(self, token: Secret, pinned: RepoRef, who: str) -> Snapshot | Denied:
        path = f"/{pinned.id}/resolve/{pinned.revision}/adapter_config.json"
        for _ in range(MAX_HOPS):
            answer = await self._transport.ask("adapter-config", path, token, MAX_ADAPTER_CONFIG, who=who)
            if isinstance(answer, Denied):
                return answer
            if answer.redirects:
                # The Hub serves small files from another path of its own.
                target = self._target(answer)
                if target is None:
                    return unavailable()
                path = target
                continue
            if answer.status != 200:
                return self._errors.of_repo(answer, pinned)
            return _snapshot(answer, pinned)
        return unavailable()

    def _moved(self, answer: HubResponse) -> Moved | Denied:
        target = self._target(answer)
        match = _MOVED.fullmatch(target) if target else None
        if match is None:
            return unavailable()
        try:
            return Moved(RepoRef.parse(match.group(1)))
        except InvalidRepoError:
            return unavailable()

    def _target(self, answer: HubResponse) -> str | None:
        location = answer.headers.get("Location")
        return self._transport.same_origin(location) if location else None

    def _next_page(self, answer: HubResponse) -> str | None:
        match = _NEXT.search(answer.headers.get("Link", ""))
        return self._transport.same_origin(match.group(1)) if match else None


def _renamed(name: str) -> Denied:
    """What a repo is called now: asked after auth-check, so this tells nothing that is not theirs."""
    try:
        RepoRef.parse(name)
    except InvalidRepoError:
        return unavailable()
    return Denied("model_not_found", f"On the Hub this model is called {name}; use that name.", "model")


def _snapshot(answer: HubResponse, pinned: RepoRef) -> Snapshot | Denied:
    """What an adapter's config says. A file that cannot be read will be the same the next time."""
    fault = ""
    if answer.cut:
        fault = f"is larger than {MAX_ADAPTER_CONFIG} bytes"
    elif is_excessive(answer.body):
        fault = "nests too deep, or holds too much"
    config = answer.decode(dict[str, Any])
    if isinstance(config, Denied):
        return Denied("adapter_rejected", f"{pinned.id}: adapter_config.json {fault or 'is not JSON'}.")
    base = config.get("base_model_name_or_path")
    named = isinstance(base, str) and len(base) <= MAX_NAME
    return Snapshot(pinned, adapter=True, base=base if named else "")
