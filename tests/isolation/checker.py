"""The verdict on one answer: whether it was right, given everything that was true within the bounds."""

from tests.isolation import scenario
from tests.isolation.access_model import AccessModel
from tests.isolation.attempt import Attempt, Bounds, Verdict
from tests.isolation.delivery import Delivery
from tests.isolation.expected_cache import ExpectedCache


class Checker:
    """Compares answers with the model, in the moment they come: the window ends now."""

    def __init__(
        self, access_model: AccessModel, expected_cache: ExpectedCache, bounds: Bounds, delivery: Delivery
    ) -> None:
        self.access_model = access_model
        self._warmth = expected_cache
        self._bounds = bounds
        self._delivery = delivery
        self._asked: dict[str, set[str]] = {user: set() for user in scenario.USERS}

    def check(self, attempt: Attempt) -> Verdict:
        """Decide. What went upstream comes first: a wrong grant is wrong whatever the answer was."""
        user = scenario.holder(attempt.token)
        if user is not None and attempt.repo:
            self._asked[user].add(scenario.chain(attempt.repo)[0])
        if fault := self._delivery.fault(attempt):
            return Verdict("wrongly served", why=fault)
        if attempt.code == "hub_unavailable":
            return self._unavailable(attempt)
        either = attempt.reeling and not attempt.known  # then `hub_unavailable` would have been right too
        if attempt.status == 200:
            return self._served(attempt, either=either)
        codes = self._refusals(attempt)
        if attempt.code not in codes:
            return Verdict("wrongly refused", why=f"{attempt.code} is not one of {sorted(codes)}")
        return Verdict("refused", either=either or not self._forbidden(attempt))

    def _served(self, attempt: Attempt, *, either: bool) -> Verdict:
        if fault := self._forbidden(attempt) or (not attempt.repo and self._unlistable(attempt)):
            return Verdict("wrongly served", why=fault)
        if not attempt.repo and (missing := self._unlisted(attempt)):
            return Verdict("wrongly refused", why=f"{missing} is not listed")
        return Verdict("served", either=either or bool(self._refusals(attempt)))

    def _unavailable(self, attempt: Attempt) -> Verdict:
        away = self.access_model.unreachable(attempt.began) or attempt.silenced
        if not away and not attempt.reeling:
            return Verdict("wrongly refused", why="the Hub was there")
        if attempt.known and self._warmth.knows(attempt.token, attempt.repo, attempt.revision):
            return Verdict("wrongly refused", why="nothing had to be asked")
        return Verdict("unavailable", either=not away)

    def _forbidden(self, attempt: Attempt) -> str:
        """Why nothing within the bounds could have let this caller in; "" if something could."""
        access_model, bounds = self.access_model, self._bounds
        if True not in access_model.good(attempt.token, attempt.began - bounds.identity):
            return "the token was not good"
        if code := scenario.POLICY.get(attempt.token) or _excluded(attempt):
            return f"policy says {code}"
        # What a load waited for does not count: access must have held within the bound of its end.
        since = max([attempt.began, *(load.done_at for load in attempt.loads if load.done_at)])
        for repo in scenario.chain(attempt.repo) if attempt.repo else ():
            if not access_model.allowed(attempt.token, repo, since - bounds.access):
                return f"{repo} was not theirs to read"
        return ""

    def _refusals(self, attempt: Attempt) -> set[str]:
        """Every code that would have been right, an outage apart."""
        access_model = self.access_model
        since = attempt.began - self._bounds.denial
        codes = {"invalid_api_key"} if False in access_model.good(attempt.token, since) else set()
        if True not in access_model.good(attempt.token, attempt.began - self._bounds.identity):
            return codes
        if code := scenario.POLICY.get(attempt.token) or _excluded(attempt):
            codes.add(code)
        if attempt.token in scenario.POLICY or not attempt.repo:
            return codes
        if attempt.revision == "pr-ref" or attempt.repo == scenario.FORBIDDEN:
            return codes  # refused before anything is asked
        for repo in scenario.chain(attempt.repo):
            codes |= access_model.refusals(attempt.token, repo, since)
        if (
            len(attempt.upstream) == 2
            and access_model.evictions[scenario.chain(attempt.repo)[0]] > attempt.evictions
        ):
            codes.add("model_loading")  # gone before the proxy heard of it, and again after the load
        return codes

    def _unlistable(self, attempt: Attempt) -> str:
        """Which listed model is not this caller's to see; "" if all are."""
        asked = self._asked[scenario.holder(attempt.token) or ""]
        for name in attempt.listed:
            if name not in {*scenario.ALIASES, *scenario.LISTED, *asked}:
                return f"{name} is listed to who never asked for it"
            if not self.access_model.allowed(
                attempt.token, scenario.chain(name)[0], attempt.began - self._bounds.access
            ):
                return f"{name} is listed, which was not theirs to read"
        return ""

    def _unlisted(self, attempt: Attempt) -> str:
        """Which configured model is not listed without a reason; "" if none."""
        since = attempt.began - self._bounds.denial
        missing = {*scenario.ALIASES, *scenario.LISTED} - set(attempt.listed)
        wrong = (
            name
            for name in missing
            if not self.access_model.refusals(attempt.token, scenario.chain(name)[0], since)
        )
        return next(wrong, "")


def _excluded(attempt: Attempt) -> str:
    """The code of a model or revision that the proxy's settings exclude; "" if they do not."""
    excluded = attempt.repo == scenario.FORBIDDEN or attempt.revision in ("pr-ref", "pr-sha")
    return "model_not_allowed" if excluded else ""
