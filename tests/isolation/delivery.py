"""What may reach the backend and the engines on behalf of one attempt: its caller's name and model alone."""

from collections.abc import Mapping

from tests.isolation import scenario
from tests.isolation.access_model import AccessModel
from tests.isolation.attempt import Attempt, Bounds, Loaded, Upstreamed
from tests.isolation.scenario import Revision


class Delivery:
    """Finds faults; each is a sentence, and "" is none."""

    def __init__(self, access_model: AccessModel, bounds: Bounds, subs: Mapping[str, str]) -> None:
        self.access_model = access_model
        self._bounds = bounds
        self._subs = subs  # user → the pseudonym that their grants must carry
        self._salts: dict[str, str] = {}

    def fault(self, attempt: Attempt) -> str:
        """The first thing that is wrong about what went upstream, if anything."""
        faults = [self._load(attempt, load) for load in attempt.loads]
        faults += [self._seen(attempt, seen) for seen in attempt.upstream]
        if len(set(self._salts.values())) < len(self._salts):
            faults.append("two identities share a cache_salt")
        answers = [seen.model for seen in attempt.upstream if seen.answered]
        expected = [attempt.answered] if attempt.answered else []
        if answers != expected:
            faults.append(f"the answer names {expected}, the engines answered {answers}")
        if len(attempt.upstream) > 2:
            faults.append("one request reached the engines three times")
        return next(filter(None, faults), "")

    def _load(self, attempt: Attempt, load: Loaded) -> str:
        repos = tuple(name.partition("@")[0] for name in (load.adapter, load.base) if name)
        owner = (scenario.secret(attempt.token), self._sub(attempt))
        if (load.token, load.sub) != owner or repos != scenario.chain(attempt.repo):
            return f"a load of {repos} for another caller or model"
        return self._strange(attempt, load.base, "" if load.adapter else attempt.revision)

    def _seen(self, attempt: Attempt, seen: Upstreamed) -> str:
        sub = self._sub(attempt)
        if seen.sub != sub or seen.model != seen.grant_model:
            return f"an engine got {seen.model} under a grant for {seen.grant_model} of {seen.sub}"
        if seen.model.partition("@")[0] != scenario.chain(attempt.repo)[0]:
            return f"an engine got {seen.model}"
        if seen.salt != self._salts.setdefault(sub, seen.salt):
            return "the cache_salt of an identity changed"
        return self._strange(attempt, seen.model, attempt.revision)

    def _strange(self, attempt: Attempt, model: str, revision: Revision) -> str:
        """Whether the commit is one that the revision meant within the bounds."""
        repo, _, sha = model.partition("@")
        if revision not in ("", "main"):
            return "" if attempt.text.endswith(f"@{sha}") else f"{model} instead of what was asked for"
        meant = self.access_model.commits[repo].within(attempt.began - self._bounds.revision)
        running = self.access_model.running[repo].within(attempt.began) if repo in scenario.BASES else set()
        return "" if sha in meant.union(*running) else f"{model} was no commit of main"

    def _sub(self, attempt: Attempt) -> str:
        return self._subs.get(scenario.holder(attempt.token) or "", "nobody")
