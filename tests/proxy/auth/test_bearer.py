"""The one credential of a request: found, or refused, without asking anybody."""

import re

from hypothesis import given
from hypothesis import strategies as st

from hubgate.proxy.auth import bearer
from hubgate.proxy.auth.bearer import MAX_LENGTH, Credential
from hubgate.proxy.errors import Denied
from hubgate.wire.secret import Secret
from tests.cases import each

TOKEN = "hf_canary4711"
ADVICE = "Make another one."


def parse(*headers: tuple[str, str]) -> Credential | Denied:
    """Parse these headers."""
    return bearer.parse(headers, ADVICE)


def outcome(found: Credential | Denied) -> str:
    """The token that was found, or the code of the refusal."""
    return found.code if isinstance(found, Denied) else found.secret.reveal()


@each(
    "value",
    [
        f"Bearer {TOKEN}",
        f"bearer {TOKEN}",
        f"BEARER {TOKEN}",
        f"bEaReR {TOKEN}",
        f"Bearer  {TOKEN}",
        f" Bearer {TOKEN}\t",
    ],
)
def test_the_scheme_is_case_insensitive(value: str) -> None:
    """RFC 9110, section 11.1."""
    found = parse(("AUTHORIZATION", value))
    assert outcome(found) == TOKEN
    assert isinstance(found, Credential)
    assert not found.doubled


@each("value", [f"Bearer Bearer {TOKEN}", f"Bearer bearer  {TOKEN}", f"bearer BEARER {TOKEN}"])
def test_a_doubled_scheme_is_taken_and_told(value: str) -> None:
    """The SDK sends it when a user writes the scheme into `api_key`."""
    found = parse(("Authorization", value))
    assert outcome(found) == TOKEN
    assert isinstance(found, Credential)
    assert found.doubled


@each(
    "value",
    [
        "",
        " ",
        "Bearer",
        "Bearer ",
        TOKEN,
        f"Bearer{TOKEN}",
        f"Bearer\t{TOKEN}",
        f"Bearer:{TOKEN}",
        f"Bearer {TOKEN},",
        f"Bearer {TOKEN} x",
        f"Bearer x {TOKEN}",
        f"Bearer {TOKEN}, Bearer {TOKEN}",
        f"Bearer Bearer Bearer {TOKEN}",
        f"Token {TOKEN}",
        f"Basic {TOKEN}",
        f"Bearer Basic {TOKEN}",
        f'Bearer "{TOKEN}"',
        f"Bearer {TOKEN}\x00",
        f"Bearer {TOKEN}\n",
        f"Bearer {TOKEN}\r\nX: y",
        f"Bearer {TOKEN}\u00a0",
        f"Bearer {TOKEN}\udcff",
        "Bearer hf_\u00e9",
        "Bearer hf_\uff11",
        "Bearer " + "a" * (MAX_LENGTH + 1),
        "Bearer =",
    ],
)
def test_anything_else_is_refused(value: str) -> None:
    """What is no bearer token is refused, and the message does not repeat it."""
    found = parse(("Authorization", value))
    assert outcome(found) == "invalid_api_key"
    assert isinstance(found, Denied)
    assert TOKEN not in found.message


@each(
    "headers",
    [
        [("Authorization", f"Bearer {TOKEN}"), ("authorization", f"Bearer {TOKEN}")],
        [("Authorization", f"Bearer {TOKEN}"), ("Authorization", "Bearer hf_other")],
        [("Authorization", ""), ("Authorization", f"Bearer {TOKEN}")],
        [("x-api-key", TOKEN), ("X-API-Key", TOKEN)],
        [("api-key", TOKEN), ("api-key", TOKEN)],
        [("x-api-key", TOKEN), ("Authorization", "Bearer hf_other")],
        [("x-api-key", TOKEN), ("api-key", f"{TOKEN}2")],
        [("x-api-key", TOKEN), ("api-key", TOKEN[:-1])],
        [("x-api-key", TOKEN), ("api-key", TOKEN), ("Authorization", f"Bearer {TOKEN.upper()}")],
        [("x-api-key", TOKEN), ("Authorization", "")],
        [("x-api-key", ""), ("Authorization", f"Bearer {TOKEN}")],
        [("x-api-key", f"Bearer {TOKEN}"), ("Authorization", f"Bearer {TOKEN}")],
        [("x-api-key", "not one"), ("api-key", "not one")],
    ],
)
def test_two_credentials_are_a_bad_request(headers: list[tuple[str, str]]) -> None:
    """A header that comes twice is refused, equal ones too: others might read the other one."""
    assert outcome(bearer.parse(headers, ADVICE)) == "invalid_request"
    assert outcome(bearer.parse(headers[::-1], ADVICE)) == "invalid_request"


def test_the_headers_of_other_sdks() -> None:
    """`x-api-key` is Anthropic's and `api-key` Azure's; the same token in several headers is one."""
    key, azure, auth = ("X-Api-Key", TOKEN), ("api-key", f" {TOKEN}"), ("Authorization", f"Bearer {TOKEN}")
    for headers in ((key,), (azure,), (auth,), (key, auth), (azure, key), (auth, azure, key)):
        assert outcome(parse(*headers)) == TOKEN
        assert outcome(parse(*headers[::-1])) == TOKEN
    doubled = parse(key, ("Authorization", f"Bearer Bearer {TOKEN}"))
    assert isinstance(doubled, Credential)
    assert doubled.doubled


def test_headers_that_look_like_it_are_not_it() -> None:
    """Only the one header counts: no underscore, no forwarded copy, no query."""
    for name in (
        "authorization_",
        "x-authorization",
        "proxy-authorization",
        "x-forwarded-authorization",
        "cookie",
        "x_api_key",
        "apikey",
        "x-goog-api-key",
    ):
        assert outcome(parse((name, f"Bearer {TOKEN}"))) == "invalid_api_key"


@given(st.text(max_size=80) | st.text('BbEeArR hf_0=,\t"', max_size=40))
def test_what_is_found_is_safe_in_a_header(value: str) -> None:
    """Whatever comes, a secret is short ASCII without white space or quotes, and stood in the header."""
    found = parse(("Authorization", value))
    if isinstance(found, Credential):
        text = found.secret.reveal()
        assert re.fullmatch(r"[A-Za-z0-9._~+/-]+=*", text)
        assert len(text) <= MAX_LENGTH
        assert value.rstrip(" \t").endswith(text)
    else:
        assert found.status == 401


@given(st.from_regex(r"[A-Za-z0-9._~+/-]{1,100}={0,2}", fullmatch=True))
def test_every_b64token_is_found(token: str) -> None:
    """RFC 6750, section 2.1: each token of its grammar comes out as it went in."""
    if token.lower() != "bearer":
        assert outcome(parse(("Authorization", f"Bearer {token}"))) == token


@each(
    ("token", "hub"),
    [
        ("hf_abc", True),
        ("hf_oauth_abc", True),
        ("hf_jwt_abc", True),
        ("api_org_abc", True),
        ("hf_", False),
        ("hf_ab", False),
        ("HF_abc", False),
        ("hf-abc", False),
        ("xhf_abc", False),
        ("hf_abc\n", False),
        ("hf_abc.def", False),
        ("hf_é12", False),
        ("sk-abc", False),
        ("api_org_", False),
        ("", False),
    ],
)
def test_only_the_hubs_formats_go_to_the_hub(token: str, *, hub: bool) -> None:
    """Nothing but a token of the Hub's own formats is ever sent there."""
    assert bearer.is_hub_token(Secret(token)) is hub


@each(
    ("token", "why"),
    [
        ("hf_abc", None),
        ("hf_oauth_abc", None),
        ("hf_jwt", None),
        ("api_org_abc", "organization"),
        ("hf_jwt_abc", "exchanged"),
        ("api_org_ab", "other"),
        ("hf_ab", "other"),
        ("sk-abc", "other"),
        ("", "other"),
    ],
)
def test_why_the_hub_is_not_asked(token: str, why: str | None) -> None:
    """The form of a token tells whose it cannot be: an organization's, a CI job's, or none of the Hub's."""
    assert bearer.unsuitable(Secret(token)) == why


@each("character", [chr(code) for code in range(128)])
def test_which_characters_a_token_has(character: str) -> None:
    """Every ASCII character, one by one: b64token (RFC 6750) for all; letters, digits, `_` for the Hub's."""
    word = (character.isalnum() and character.isascii()) or character == "_"
    for prefix in ("hf_", "api_org_"):
        assert bearer.is_hub_token(Secret(f"{prefix}ab{character}")) is word
    assert bearer.is_well_formed(Secret(f"a{character}a")) is (word or character in "-._~+/")
    assert bearer.is_well_formed(Secret(f"a{character}")) is (word or character in "-._~+/=")


@each(("token", "good"), [("a" * 512, True), ("a" * 513, False), ("a" * 511 + "==", False)])
def test_how_long_a_token_may_be(token: str, good: bool) -> None:
    """512 characters, padding included."""
    assert bearer.is_well_formed(Secret(token)) is good


def test_a_key_is_not_doubled() -> None:
    """Only a scheme that stood twice is told to the caller."""
    found = parse(("x-api-key", f" {TOKEN}\t"))
    assert isinstance(found, Credential)
    assert (found.secret.reveal(), found.doubled) == (TOKEN, False)
    assert Credential(Secret(TOKEN)).doubled is False
