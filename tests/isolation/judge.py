"""The verdict on one answer: was it right, given everything that was true within the bounds?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from tests.isolation import cast
from tests.isolation.cast import Revision
from tests.isolation.oracle import Oracle
from tests.isolation.warmth import Warmth

Kind = Literal["served", "refused", "unavailable", "wrongly served", "wrongly refused"]


@dataclass(frozen=True, slots=True)
class Bounds:
    """For how many seconds the proxy may go on believing what it was told."""

    identity: float
    access: float
    denial: float
    revision: float


@dataclass(frozen=True, slots=True)
class Upstreamed:
    """One request as an engine saw it; only one that held a grant and the model was `answered`."""

    model: str
    grant_model: str
    sub: str
    salt: str
    answered: bool


@dataclass(frozen=True, slots=True)
class Loaded:
    """One load as the backend saw it, opened with its private key."""

    token: str
    sub: str
    base: str
    adapter: str | None
    done_at: float | None


@dataclass(slots=True)
class Attempt:
    """One request, and everything that came of it."""

    id: str
    token: str
    repo: str  # org/name as it was asked for; "" for the list of models
    revision: Revision
    text: str  # the `model` that was sent
    began: float
    evictions: int  # of what it asked for, before it began
    status: int = 0
    code: str = ""
    answered: str = ""  # the model that the answer names
    listed: tuple[str, ...] = ()
    upstream: Sequence[Upstreamed] = ()
    loads: Sequence[Loaded] = ()
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the answer was; `either` if the opposite would have been right too."""

    kind: Kind
    either: bool
    why: str = ""


class Judge:
    """Compares answers with the oracle."""

    def __init__(self, oracle: Oracle, warmth: Warmth, bounds: Bounds, subs: Mapping[str, str]) -> None:
        self._oracle = oracle
        self._warmth = warmth
        self._bounds = bounds
        self._subs = subs  # user → the pseudonym that their grants must carry
        self._salts: dict[str, str] = {}
        self._asked: dict[str, set[str]] = {user: set() for user in cast.USERS}

    def judge(self, attempt: Attempt) -> Verdict:
        """Decide at once after the answer came: the window ends now."""
        if attempt.repo:
            self._remember(attempt)
        if fault := self._trespass(attempt):
            return Verdict("wrongly served", either=False, why=fault)
        if attempt.status == 200:
            return self._served(attempt)
        if attempt.code == "hub_unavailable":
            away = self._oracle.unreachable(attempt.began)
            known = self._warmth.knows(attempt.token, attempt.repo, attempt.revision)
            if away and not known:
                return Verdict("unavailable", either=False)
            return Verdict("wrongly refused", either=False, why="cached" if away else "the Hub was there")
        codes = self._refusals(attempt)
        if attempt.code not in codes:
            return Verdict("wrongly refused", either=False, why=f"{attempt.code}, not one of {sorted(codes)}")
        return Verdict("refused", either=not self._forbidden(attempt))

    def _served(self, attempt: Attempt) -> Verdict:
        fault = self._unlistable(attempt) if not attempt.repo else self._forbidden(attempt)
        fault = fault or (self._misdelivered(attempt) if attempt.repo else "")
        if fault:
            return Verdict("wrongly served", either=False, why=fault)
        return Verdict("served", either=bool(self._refusals(attempt)))

    def _forbidden(self, attempt: Attempt) -> str:
        """Why nothing within the bounds could have let this caller in; "" if something could."""
        oracle, bounds = self._oracle, self._bounds
        if True not in oracle.good(attempt.token, attempt.began - bounds.identity):
            return "the token was not good"
        if (code := cast.POLICY.get(attempt.token)) or (code := _unserved(attempt)):
            return f"policy says {code}"
        since = max([attempt.began, *(load.done_at for load in attempt.loads if load.done_at)])
        for repo in cast.chain(attempt.repo) if attempt.repo else ():
            if not oracle.allowed(attempt.token, repo, since - bounds.access):
                return f"{repo} was not theirs to read"
        return ""

    def _refusals(self, attempt: Attempt) -> set[str]:
        """Every code that would have been right."""
        oracle, bounds = self._oracle, self._bounds
        since = attempt.began - bounds.denial
        codes = {"invalid_api_key"} if False in oracle.good(attempt.token, since) else set()
        if True not in oracle.good(attempt.token, attempt.began - bounds.identity):
            return codes
        if code := cast.POLICY.get(attempt.token):
            return codes | {code}
        if not attempt.repo:
            return codes
        if code := _unserved(attempt):
            codes.add(code)
        if attempt.revision == "pr-ref" or attempt.repo == cast.FORBIDDEN:
            return codes
        for repo in cast.chain(attempt.repo):
            codes |= oracle.refusals(attempt.token, repo, since)
        if oracle.evictions[attempt.repo] - attempt.evictions >= 2:
            codes.add("upstream_error")  # it was taken away twice while this request was under way
        return codes

    def _trespass(self, attempt: Attempt) -> str:
        """What reached the backend or an engine and does not belong to this caller and model."""
        sub, links = self._subs.get(cast.holder(attempt.token) or ""), cast.chain(attempt.repo)
        for load in attempt.loads:
            repos = tuple(name.partition("@")[0] for name in (load.adapter, load.base) if name)
            if (load.token, load.sub, repos) != (cast.secret(attempt.token), sub, links):
                return f"a load of {repos} for another caller or model"
            if fault := self._strange(load.base, attempt, ""):
                return fault
        for seen in attempt.upstream:
            if seen.sub != sub or seen.model != seen.grant_model:
                return f"an engine got {seen.model} under a grant for {seen.grant_model} of {seen.sub}"
            if seen.model.partition("@")[0] != links[0]:
                return f"an engine got {seen.model}"
            if seen.salt != self._salts.setdefault(sub, seen.salt):
                return "the cache_salt changed"
            if fault := self._strange(seen.model, attempt, attempt.revision):
                return fault
        if len(set(self._salts.values())) < len(self._salts):
            return "two identities share a cache_salt"
        if attempt.status != 200 and any(seen.answered for seen in attempt.upstream):
            return "refused, yet an engine answered"
        return ""

    def _strange(self, model: str, attempt: Attempt, revision: Revision) -> str:
        """Why the commit is not one that the revision meant within the bounds; "" if it is."""
        repo, _, sha = model.partition("@")
        if revision not in ("", "main"):
            return "" if attempt.text.endswith(f"@{sha}") else f"{model} instead of what was asked for"
        meant = self._oracle.commits[repo].within(attempt.began - self._bounds.revision)
        running = self._oracle.running[repo].within(attempt.began) if repo in cast.BASES else set()
        return "" if sha in meant.union(*running) else f"{model} was no commit of main"

    @staticmethod
    def _misdelivered(attempt: Attempt) -> str:
        answers = [seen.model for seen in attempt.upstream if seen.answered]
        if answers != [attempt.answered] or len(attempt.upstream) > 2:
            return f"the answer names {attempt.answered}, the engines answered {answers}"
        return ""

    def _remember(self, attempt: Attempt) -> None:
        user = cast.holder(attempt.token)
        if user is not None:
            self._asked[user].add(cast.RENAMED.get(attempt.repo, attempt.repo))

    def _unlistable(self, attempt: Attempt) -> str:
        """Why this list is not one that the caller may see; "" if it is."""
        if fault := self._forbidden(attempt):
            return fault
        user = cast.holder(attempt.token) or ""
        since = attempt.began - self._bounds.access
        for name in attempt.listed:
            if name not in cast.ALIASES and name not in cast.LISTED and name not in self._asked[user]:
                return f"{name} is listed, which {user} never asked for"
            if not self._oracle.allowed(attempt.token, cast.chain(name)[0], since):
                return f"{name} is listed"
        return ""


def _unserved(attempt: Attempt) -> str:
    """The code of a model or revision that the proxy's settings exclude; "" if they do not."""
    excluded = attempt.repo == cast.FORBIDDEN or attempt.revision in ("pr-ref", "pr-sha")
    return "model_not_allowed" if excluded else ""
