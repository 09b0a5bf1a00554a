"""What is read out of one answer of the Hub, without a network."""

from typing import Any

import msgspec

from hubgate.proxy.hub.schemas import Auth, FineGrained, HubResponse, ModelInfo, Refs, WhoAmI, unavailable
from tests.cases import each

WHO: dict[str, Any] = {
    "id": "1",
    "name": "alice",
    "type": "user",
    "orgs": [{"name": "acme"}],
    "auth": {
        "type": "access_token",
        "expiresAt": "2027",
        "accessToken": {
            "displayName": "ci",
            "role": "fineGrained",
            "createdAt": "2026",
            "fineGrained": {"scoped": [{"permissions": []}], "global": ["a"]},
        },
    },
}


def answer(body: bytes = b"", status: int = 200, **headers: str) -> HubResponse:
    return HubResponse(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)


def test_whoami_is_read_in_the_hubs_words() -> None:
    """Every fact that decisions rest on is found under the name that the Hub writes."""
    facts = answer(msgspec.json.encode(WHO)).decode(WhoAmI)
    token = facts.auth.access_token
    assert (facts.id, facts.name, facts.type, facts.orgs[0].name) == ("1", "alice", "user", "acme")
    assert (facts.auth.type, facts.auth.expires_at) == ("access_token", "2027")
    assert (token.display_name, token.role, token.created_at) == ("ci", "fineGrained", "2026")
    assert token.fine_grained == FineGrained(scoped=[{"permissions": []}], global_=["a"])


def test_what_whoami_leaves_out_is_nothing() -> None:
    """A fact that is missing is empty or absent: never a role, a kind or a list that nobody gave."""
    facts = answer(b'{"id": "1", "name": "a"}').decode(WhoAmI)
    assert facts == WhoAmI(id="1", name="a", type="", orgs=[], auth=Auth("", None, None))
    assert answer(b'{"id": "1", "name": "a", "orgs": [{"name": "b"}]}').decode(WhoAmI).orgs[0].id == ""
    token = answer(b'{"id": "1", "name": "a", "auth": {"accessToken": {}}}').decode(WhoAmI).auth.access_token
    assert (token.display_name, token.role, token.created_at, token.fine_grained) == ("", "", None, None)
    assert answer(b"{}").decode(FineGrained) == FineGrained(scoped=None, global_=None)


def test_refs_are_read_in_the_hubs_words() -> None:
    """A ref has a name and a `targetCommit`; a repo may have none of either kind."""
    refs = answer(b'{"tags": [{"name": "v1", "targetCommit": "c"}]}').decode(Refs)
    assert (refs.branches, refs.tags[0].name, refs.tags[0].target_commit) == ([], "v1", "c")
    assert answer(b'{"id": "a/b", "sha": "c"}').decode(ModelInfo).siblings == []


@each("status", [*range(200, 210), *range(300, 310), 401, 404])
def test_what_a_redirect_is(status: int) -> None:
    """301, 302, 307 and 308 (RFC 9110, section 15.4) lead on; 303, 304 and the rest do not."""
    assert answer(status=status).redirects is (status in {301, 302, 307, 308})


@each(
    ("kind", "body", "is_page"),
    [
        ("text/html", b"<p>", True),
        ("text/html; charset=utf-8", b"", True),
        ("application/xhtml+xml", b"<p>", True),
        ("TEXT/HTML", b"<p>", True),
        ("text/html", b" OK\n", False),
        ("text/plain", b"<p>", False),
        ("application/json", b"{}", False),
    ],
)
def test_what_is_for_a_browser(kind: str, body: bytes, *, is_page: bool) -> None:
    """HTML in either form, but for what a server calls so for want of another type."""
    assert answer(body, Content_Type=kind).is_page is is_page


@each("header", ["X-Error-Code", "X-Error-Message"])
def test_what_the_hub_says_in_a_header_of_its_own_is_its_word(header: str) -> None:
    """Whatever page is below it; and a redirect leads on."""
    assert answer(b"<p>", 404, Content_Type="text/html", **{header: "GatedRepo"}).is_page is False
    assert answer(b"<p>", 302, Content_Type="text/html").is_page is False
    assert answer(b"<p>", 404, Content_Type="text/html", X_Error="GatedRepo").is_page


@each(
    ("status", "body", "opens"),
    [
        (200, b"", True),
        (200, b"OK", True),
        (200, b"{}", True),
        (200, b'{"error": null}', True),
        (200, b'{"error": ""}', False),
        (200, b"\n <p>", False),
        (200, b"[" * 101, False),
        (201, b"{}", False),
        (403, b"", False),
    ],
)
def test_what_is_a_yes(status: int, body: bytes, *, opens: bool) -> None:
    """200, with nothing below it that is somebody else's; and never what was cut short."""
    assert answer(body, status).opens is opens
    assert HubResponse(status, {}, body, cut=True).opens is False


@each(
    ("given", "reason"),
    [
        (answer(b'{"error": "body"}', X_Error_Message="header"), "header"),
        (answer(b'{"error": "body"}'), "body"),
        (answer(b'{"error": 5}'), "5"),
        (answer(b"{}"), ""),
        (answer(b"[]"), ""),
        (answer(b""), ""),
        (answer(b'{"error": "\xff"}'), ""),
        (answer(X_Error_Message="a\x00b\nc\u202ed e"), "abcd e"),
        (answer(X_Error_Message="x" * 301), "x" * 300),
        (answer(X_Error_Message="x" * 299 + "yz"), "x" * 299 + "y"),
    ],
)
def test_the_hubs_own_words(given: HubResponse, reason: str) -> None:
    """The header that its client reads, else the body's `error`; 300 printable characters at most."""
    assert given.reason == reason


@each("body", [b"", b"{", b"[]", b'{"id": 1, "name": "a"}', b'{"id": "", "name": "a"}', b'{"id": "\xff"}'])
def test_nonsense_is_an_outage(body: bytes) -> None:
    """An answer that cannot be read is no denial, and one without an id is nobody's."""
    assert answer(body).decode(WhoAmI) == unavailable()


def test_a_part_of_an_answer_is_none() -> None:
    """What was cut short is not read, even where it could be."""
    body = b'{"id": "1", "name": "a"}'
    assert isinstance(HubResponse(200, {}, body).decode(WhoAmI), WhoAmI)
    assert HubResponse(200, {}, body, cut=True).decode(WhoAmI) == unavailable()


@each(("asked", "told"), [(None, 5), (7, 7), (1, 1), (0.2, 1), (0, 1)])
@each("own", [False, True])
def test_when_to_come_again(asked: float | None, told: float, *, own: bool) -> None:
    """As long as is known, 5 s where nothing is, and never less than 1 s."""
    found = unavailable(own=own) if asked is None else unavailable(asked, own=own)
    assert found.own is own
    assert (found.code, found.retry_after, found.param) == ("hub_unavailable", told, None)
