"""What the Hub's refusals mean for a caller: the tables in docs/hub.md, row by row. Pure.

Decided by status and headers. Whatever is not in the table fails closed, as an outage.
"""

from typing import Literal, assert_never

from hubgate.proxy.errors import Denied
from hubgate.proxy.hub.schemas import HubResponse, unavailable
from hubgate.wire.repo import RepoRef

# Why a credential cannot be a person's token, by its form alone.
Unsuitable = Literal["organization", "exchanged", "other"]


class HubErrors:
    """Writes them for one Hub, whose pages they name."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.advice = advice(url)

    def of_token(self, answer: HubResponse) -> Denied:
        """A 401."""
        if "expired" in answer.reason:
            return Denied("token_expired", f"Your Hugging Face token has expired. {self.advice}")
        return Denied(
            "invalid_api_key",
            f"The Hub does not know this token: it is mistyped, revoked or not a token. {self.advice}",
        )

    def of_kind(self, kind: Unsuitable) -> Denied:
        """A token whose form alone says that it is no person's: the Hub is not asked about it."""
        match kind:
            case "organization":
                what = "Organization API tokens (api_org_…) are not accepted: they name no person."
            case "exchanged":
                what = "Tokens of a CI job (hf_jwt_…) are not accepted: they name no person and end soon."
            case "other":
                what = "This is not a Hugging Face token: one begins with hf_."
            case never:
                assert_never(never)
        return Denied("invalid_api_key", f"{what} {self.advice}")

    def of_repo(self, answer: HubResponse, repo: RepoRef) -> Denied:
        """Any answer about a repo but a good one and a redirect."""
        reason = answer.reason
        match answer.status:
            case 401:
                return self.of_token(answer)
            case 404:
                return not_found(repo)
            case 403 if answer.headers.get("X-Error-Code") == "GatedRepo":
                return self._gated(reason, repo)
            case 403 if "fine-grained token" in reason:
                return Denied(
                    "insufficient_scope",
                    f"Your fine-grained token may not read {repo.id}: give it read access to this repo, "
                    f"or to all public gated repos, at {self._url}/settings/tokens.",
                )
            case 403:
                return Denied(
                    "access_denied", f"The Hub refuses access to {repo.id}: {reason or 'no reason given'}"
                )
            case _:
                return unavailable()

    def writes(self, repo: RepoRef) -> Denied:
        """An OAuth token that is more than a reader's."""
        return Denied(
            "insufficient_scope",
            f"Your OAuth token may write to {repo.id}; sign in to an app that asks for reading only. "
            f"Or: {self.advice}",
        )

    def may_write(self, repo: RepoRef) -> Denied:
        """An OAuth token of which the Hub does not say that it only reads."""
        return Denied(
            "insufficient_scope",
            f"The Hub does not say whether your OAuth token may write to {repo.id}. {self.advice}",
        )

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


def not_found(repo: RepoRef) -> Denied:
    """The one answer for a repo that is missing and for one that is somebody else's."""
    return Denied(
        "model_not_found", f"The model {repo} does not exist, or your token cannot read it.", "model"
    )


def advice(url: str) -> str:
    """What kind of token does it, and the page of this Hub where it is made."""
    return (
        "Make a token of type Read, or a fine-grained one with read permissions only, "
        f"at {url}/settings/tokens and use that instead."
    )
