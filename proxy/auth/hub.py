"""Asks the Hub: whoami, auth-check, revisions, adapter configs. Answers are values.

Its own client because huggingface_hub's has no timeout, one cookie jar for everybody and falls back
to the process's token. Redirects are not followed: they would carry the caller's token elsewhere.
What each answer means is HUB's table in docs/hub.md; whatever is not in it fails closed.
"""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import aiohttp
import msgspec
from yarl import URL

from proxy.errors import Denied
from proxy.metrics import Metrics
from wire.repo import InvalidRepoError, RepoRef
from wire.secret import Secret

MAX_ANSWER = 4 * 1024 * 1024  # bytes; the file list of a very large repo is about 1 MiB
MAX_HOPS = 3
MAX_PAGES = 50  # of a commit history; 50 commits a page on the Hub

MAX_SILENCE = 300  # seconds; the Hub counts in windows of five minutes

_SECONDS = re.compile(r"([0-9]{1,9})")
_RATE_LIMIT_RESET = re.compile(r"\bt=([0-9]{1,9})\b")
_MOVED = re.compile(r"/api/models/([^/]+/[^/]+)/auth-check")


class _FineGrained(msgspec.Struct):
    scoped: list[dict[str, Any]] = []
    global_: list[str] = msgspec.field(name="global", default_factory=list)


class _AccessToken(msgspec.Struct, rename="camel"):
    display_name: str = ""
    role: str = ""
    created_at: str | None = None
    fine_grained: _FineGrained | None = None


class _Auth(msgspec.Struct, rename="camel"):
    type: str = ""
    access_token: _AccessToken | None = None
    expires_at: str | None = None


class _Org(msgspec.Struct):
    name: str


class WhoAmI(msgspec.Struct):
    """The parts of `/api/whoami-v2` that decisions rest on."""

    id: str
    name: str
    type: str = "user"
    orgs: list[_Org] = []
    auth: _Auth = msgspec.field(default_factory=_Auth)


class _Sibling(msgspec.Struct):
    rfilename: str


class _ModelInfo(msgspec.Struct):
    id: str
    sha: str
    siblings: list[_Sibling] = []


class _Commit(msgspec.Struct):
    id: str


class _Ref(msgspec.Struct, rename="camel"):
    name: str
    target_commit: str


class Refs(msgspec.Struct):
    """Branches and tags of a repo, and the commits they point to."""

    branches: list[_Ref] = []
    tags: list[_Ref] = []


@dataclass(frozen=True, slots=True)
class Allowed:
    """The Hub lets this token read the repo."""


@dataclass(frozen=True, slots=True)
class Moved:
    """The repo was renamed; nothing is decided yet for its new name."""

    target: RepoRef


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a repo is at one commit: an adapter has the base that its config names."""

    repo: RepoRef  # pinned
    adapter: bool
    base: str | None = None


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def reason(self) -> str:
        """The Hub's own words, from the header that its client reads, else from the body."""
        text = self.headers.get("X-Error-Message", "")
        if not text:
            try:
                text = str(msgspec.json.decode(self.body, type=dict[str, Any]).get("error", ""))
            except (msgspec.DecodeError, UnicodeDecodeError):
                text = ""
        return "".join(c for c in text[:300] if c.isprintable())


class HubClient:
    """One Hub, asked with the caller's token and never with another."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._session = session
        self._url = url
        self._metrics = metrics
        self._clock = clock
        self._silent_until = 0.0  # the Hub asked us to wait

    async def whoami(self, token: Secret) -> WhoAmI | Denied:
        """Whose token this is (`GET /api/whoami-v2`)."""
        answer = await self._get("whoami", "/api/whoami-v2", token)
        if isinstance(answer, Denied):
            return answer
        if answer.status != 200:
            return _token_refused(answer) if answer.status == 401 else _unavailable()
        facts: WhoAmI | Denied = _decode(answer, WhoAmI)
        return facts

    async def auth_check(self, token: Secret, repo: RepoRef) -> Allowed | Moved | Denied:
        """Whether the token may read the repo's files (`GET /api/models/{id}/auth-check`)."""
        answer = await self._get("auth-check", f"/api/models/{repo.id}/auth-check", token)
        if isinstance(answer, Denied):
            return answer
        if answer.status == 200:
            return Allowed()
        if answer.status in (301, 302, 307, 308):
            return self._moved(answer)
        return self._repo_refused(answer, repo)

    async def snapshot(self, token: Secret, repo: RepoRef) -> Snapshot | Denied:
        """Which commit the revision is, and what kind of repo it is there."""
        revision = quote(repo.revision or "main", safe="")
        answer = await self._get("revision", f"/api/models/{repo.id}/revision/{revision}", token)
        if isinstance(answer, Denied):
            return answer
        if answer.status != 200:
            return self._repo_refused(answer, repo)
        info = _decode(answer, _ModelInfo)
        if isinstance(info, Denied):
            return info
        if info.id != repo.id:  # after auth-check, so this tells nothing that is not theirs
            return Denied(
                "model_not_found", f"On the Hub this model is called {info.id}; use that name.", "model"
            )
        pinned = repo.at(info.sha)
        if not pinned.pinned:
            return _unavailable()
        if not any(file.rfilename == "adapter_config.json" for file in info.siblings):
            return Snapshot(pinned, adapter=False)
        return await self._adapter(token, pinned)

    async def refs(self, token: Secret, repo: RepoRef) -> Refs | Denied:
        """The repo's branches and tags (`GET /api/models/{id}/refs`)."""
        answer = await self._get("refs", f"/api/models/{repo.id}/refs", token)
        if isinstance(answer, Denied):
            return answer
        if answer.status != 200:
            return self._repo_refused(answer, repo)
        refs: Refs | Denied = _decode(answer, Refs)
        return refs

    async def in_history(self, token: Secret, repo: RepoRef, sha: str) -> bool | Denied:
        """Whether a commit is the repo's revision or one of its ancestors."""
        path = f"/api/models/{repo.id}/commits/{quote(repo.revision or 'main', safe='')}"
        for _ in range(MAX_PAGES):
            answer = await self._get("commits", path, token)
            if isinstance(answer, Denied):
                return answer
            if answer.status != 200:
                return self._repo_refused(answer, repo)
            commits = _decode(answer, list[_Commit])
            if isinstance(commits, Denied):
                return commits
            if any(commit.id == sha for commit in commits):
                return True
            following = self._next_page(answer)
            if following is None:
                return False
            path = following
        return False

    async def _adapter(self, token: Secret, pinned: RepoRef) -> Snapshot | Denied:
        path = f"/{pinned.id}/resolve/{pinned.revision}/adapter_config.json"
        for _ in range(MAX_HOPS):
            answer = await self._get("adapter-config", path, token)
            if isinstance(answer, Denied):
                return answer
            if answer.status in (301, 302, 307, 308):
                # The Hub serves small files from another path of its own.
                local = self._same_origin(answer.headers.get("Location", ""))
                if local is None:
                    return _unavailable()
                path = local
                continue
            if answer.status != 200:
                return self._repo_refused(answer, pinned)
            config = _decode(answer, dict[str, Any])
            if isinstance(config, Denied):
                return Denied("adapter_rejected", f"{pinned.id}: adapter_config.json is not JSON.")
            base = config.get("base_model_name_or_path")
            return Snapshot(pinned, adapter=True, base=base if isinstance(base, str) and base else None)
        return _unavailable()

    async def _get(self, call: str, path: str, token: Secret) -> _Answer | Denied:
        if self._clock() < self._silent_until:
            return _unavailable(self._silent_until - self._clock())
        started = time.perf_counter()
        status = "error"
        try:
            url = URL(self._url + path, encoded=True)
            headers = {"Authorization": f"Bearer {token.reveal()}"}
            async with self._session.get(url, headers=headers, allow_redirects=False) as response:
                status = str(response.status)
                body = await _read(response)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            # The exception may hold the request, so its text goes nowhere.
            return _unavailable()
        finally:
            self._metrics.hub(call, status, time.perf_counter() - started)
        answer = _Answer(response.status, response.headers, body)
        if answer.status == 429:
            self._silent_until = self._clock() + _pause(answer)
        if answer.status == 429 or answer.status >= 500:
            return _unavailable(self._silent_until - self._clock())
        return answer

    def _repo_refused(self, answer: _Answer, repo: RepoRef) -> Denied:
        reason = answer.reason
        match answer.status:
            case 401:
                return _token_refused(answer)
            case 404:
                return not_found(repo)
            case 403 if answer.headers.get("X-Error-Code") == "GatedRepo":
                return self._gated(reason, repo)
            case 403 if "fine-grained token" in reason:
                return Denied(
                    "insufficient_scope",
                    f"Your fine-grained token may not read {repo.id}: give it read access to this repo, "
                    "or to all public gated repos, under Settings, Access Tokens.",
                )
            case 403:
                return Denied(
                    "access_denied", f"The Hub refuses access to {repo.id}: {reason or 'no reason given'}"
                )
            case _:
                return _unavailable()

    def _gated(self, reason: str, repo: RepoRef) -> Denied:
        page = f"{self._url}/{repo.id}"
        if "awaiting a review" in reason:
            return Denied(
                "access_pending", f"Your request for {repo.id} awaits a review by its authors: {page}"
            )
        if "rejected" in reason:
            return Denied(
                "access_denied", f"The authors of {repo.id} rejected your request for access: {page}"
            )
        return Denied("model_gated", f"{repo.id} is gated. Ask for access at {page} and try again.")

    def _moved(self, answer: _Answer) -> Moved | Denied:
        local = self._same_origin(answer.headers.get("Location", ""))
        match = _MOVED.fullmatch(local or "")
        if match is None:
            return _unavailable()
        try:
            return Moved(RepoRef.parse(match.group(1)))
        except InvalidRepoError:
            return _unavailable()

    def _next_page(self, answer: _Answer) -> str | None:
        match = re.search(r'<([^>]+)>\s*;\s*rel="next"', answer.headers.get("Link", ""))
        return self._same_origin(match.group(1)) if match else None

    def _same_origin(self, location: str) -> str | None:
        """The path of a link that stays on this Hub, else `None`: a token never leaves it."""
        try:
            target, hub = urlsplit(urljoin(self._url + "/", location)), urlsplit(self._url)
        except ValueError:  # no URL at all, such as http://[
            return None
        if (target.scheme, target.netloc) != (hub.scheme, hub.netloc):
            return None
        path = target.path.removeprefix(hub.path) if hub.path else target.path
        return f"{path}?{target.query}" if target.query else path


def not_found(repo: RepoRef) -> Denied:
    """The one answer for a repo that is missing and for one that is somebody else's."""
    return Denied(
        "model_not_found", f"The model {repo} does not exist, or your token cannot read it.", "model"
    )


def _token_refused(answer: _Answer) -> Denied:
    if "expired" in answer.reason:
        return Denied(
            "token_expired", "Your Hugging Face token has expired. Make a new read token and use that."
        )
    return Denied(
        "invalid_api_key", "The Hub does not know this token: it is mistyped, revoked or not a token."
    )


def _unavailable(retry_after: float = 5) -> Denied:
    return Denied(
        "hub_unavailable",
        "The Hub cannot be asked right now, so access cannot be checked.",
        retry_after=max(1, retry_after),
    )


def _pause(answer: _Answer) -> float:
    """Seconds that a 429 asks for: `Retry-After`, or `t=` of the Hub's `RateLimit` header."""
    match = _SECONDS.fullmatch(answer.headers.get("Retry-After", ""))
    match = match or _RATE_LIMIT_RESET.search(answer.headers.get("RateLimit", ""))
    return min(MAX_SILENCE, float(match.group(1))) if match else 10


def _decode(answer: _Answer, kind: Any) -> Any:
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _unavailable()


async def _read(response: aiohttp.ClientResponse) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > MAX_ANSWER:
            raise ValueError("the answer is too large")
        parts.append(chunk)
    return b"".join(parts)
