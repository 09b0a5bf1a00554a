"""The tables of docs/hub.md, row by row: which refusal each answer of the Hub becomes, without a network."""

from hubgate.proxy.hub.errors import HubErrors, Unsuitable, advice, not_found
from hubgate.proxy.hub.schemas import HubResponse, unavailable
from hubgate.wire.repo import RepoRef
from tests.cases import each

URL = "https://hub.example"
REPO = RepoRef("acme", "model", "v1")
REFUSALS = HubErrors(URL)
PENDING = "Your request to access model acme/model is awaiting a review from the repo authors."
REJECTED = "Your request to access model acme/model has been rejected by the repo's authors."
FINE_GRAINED = "Access denied. Your fine-grained token lacks this repo."


def said(status: int, reason: str = "", error: str = "") -> HubResponse:
    return HubResponse(status, {"X-Error-Message": reason, "X-Error-Code": error}, b"")


@each(
    ("answer", "code", "words"),
    [
        (said(401, "User Access Token has expired"), "token_expired", "has expired"),
        (said(401, "Invalid credentials"), "invalid_api_key", "does not know"),
        (said(401), "invalid_api_key", "does not know"),
        (said(404), "model_not_found", "does not exist"),
        (said(403, PENDING, "GatedRepo"), "access_pending", f"{URL}/acme/model"),
        (said(403, REJECTED, "GatedRepo"), "access_denied", f"{URL}/acme/model"),
        (said(403, "Ask for it.", "GatedRepo"), "model_gated", f"{URL}/acme/model"),
        (said(403, "", "GatedRepo"), "model_gated", f"{URL}/acme/model"),
        (said(403, FINE_GRAINED, "GatedRepo"), "model_gated", f"{URL}/acme/model"),
        (said(403, FINE_GRAINED), "insufficient_scope", f"{URL}/settings/tokens"),
        (said(403, PENDING), "access_denied", PENDING),
        (said(403, "Storage patterns tripped."), "access_denied", "Storage patterns tripped."),
        (said(403), "access_denied", "no reason given"),
        (said(403, "", "RepoNotFound"), "access_denied", "no reason given"),
    ],
)
def test_what_a_refusal_of_the_hub_becomes(answer: HubResponse, code: str, words: str) -> None:
    """Decided by status, error code and the Hub's own words, in this order."""
    refused = REFUSALS.of_repo(answer, REPO)
    assert refused.code == code
    assert words in refused.message


@each("status", [200, 204, 301, 304, 400, 402, 405, 410, 418, 451, 500])
def test_what_is_not_in_the_table_is_an_outage(status: int) -> None:
    """A status that the Hub is not known for allows nothing, and is remembered as nothing."""
    assert REFUSALS.of_repo(said(status), REPO) == unavailable()


@each(("kind", "words"), [("organization", "api_org_"), ("exchanged", "hf_jwt_"), ("other", "hf_.")])
def test_tokens_that_no_person_has(kind: Unsuitable, words: str) -> None:
    """The answer names the form that was sent, and what to make instead."""
    refused = REFUSALS.of_kind(kind)
    assert refused.code == "invalid_api_key"
    assert words in refused.message
    assert refused.message.endswith(advice(URL))


def test_oauth_tokens_that_may_write() -> None:
    """A yes to writing, and no answer to it, are both refused, each in its own words."""
    writes, may_write = REFUSALS.writes(REPO), REFUSALS.may_write(REPO)
    assert (writes.code, may_write.code) == ("insufficient_scope", "insufficient_scope")
    assert "may write to acme/model;" in writes.message
    assert "does not say whether" in may_write.message


def test_a_missing_model_is_a_fault_of_the_name() -> None:
    """OpenAI's clients are shown which parameter to change."""
    refused = not_found(REPO)
    assert (refused.code, refused.param) == ("model_not_found", "model")
    assert str(REPO) in refused.message


def test_advice_names_the_page_of_this_hub() -> None:
    """Whoever runs a Hub of their own is not sent to another."""
    assert f" {URL}/settings/tokens " in advice(URL)
    assert REFUSALS.advice == advice(URL)
