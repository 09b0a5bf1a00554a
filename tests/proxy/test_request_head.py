"""What a head says by itself, and what of it is made anew."""

from hubgate.proxy import request_head
from hubgate.proxy.auth.bearer import Credential
from hubgate.proxy.endpoints import Route
from hubgate.proxy.errors import Denied
from hubgate.proxy.http.client_address import ClientAddresses
from hubgate.proxy.http.request import Headers, RawHead
from hubgate.proxy.request_head import RequestHead
from tests.cases import each

CHAT = "/v1/chat/completions"
ALICE, BOB = ("authorization", "Bearer hf_alice"), ("authorization", "Bearer hf_bobby")
CLIENTS = ClientAddresses(())


def head(*headers: tuple[str, str], last: RawHead | None = None, target: str = CHAT) -> RawHead:
    return RawHead(
        method="POST",
        target=target,
        version="1.1",
        headers=tuple(headers),
        peer="192.0.2.1",
        keep_alive=True,
        last=last,
    )


def of(one: RawHead) -> RequestHead:
    return request_head.parse_head(one, CLIENTS, "Make one.")


def token(made: RequestHead) -> str:
    assert isinstance(made.credential, Credential)
    return made.credential.secret.reveal()


def test_a_head_is_read_once() -> None:
    """All requests of one head have the same opening, which says whose they are and what they ask for."""
    one = head(ALICE, ("x-request-id", "my-own-id"), ("accept", "a/b"))
    made = of(one)
    assert of(one) is made
    assert isinstance(made.route, Route)
    assert (made.client, made.request_id, made.passed) == ("192.0.2.1", "my-own-id", "accept: a/b\r\n")
    assert token(made) == "hf_alice"


@each(
    ("before", "after"),
    [
        ((ALICE,), (BOB,)),
        ((ALICE,), ()),
        ((), (ALICE,)),
        ((ALICE,), (ALICE, BOB)),
        ((ALICE,), (("x-api-key", "hf_alice"),)),
        ((ALICE,), (ALICE, ("x-api-key", "hf_bobby"))),
        ((ALICE,), (ALICE, ("api-key", "hf_bobby"))),
        ((ALICE, ("api-key", "hf_alice")), (("api-key", "hf_bobby"),)),
    ],
)
@each("target", [CHAT, "/v1/messages", "/nothing"])
def test_another_credential_is_another_one(before: Headers, after: Headers, target: str) -> None:
    """Nothing of the last head counts that a head of its own would not say."""
    first = head(*before)
    of(first)
    seen, alone = of(head(*after, last=first, target=target)), of(head(*after, target=target))
    assert isinstance(seen.credential, Credential) == isinstance(alone.credential, Credential)
    if isinstance(alone.credential, Credential):
        assert token(seen) == token(alone)
    else:
        assert isinstance(seen.credential, Denied)
        assert seen.credential == alone.credential


def test_the_same_credential_is_kept() -> None:
    """A head with another trace has the credential of the last one, which was read, and its own trace."""
    first = head(ALICE, ("traceparent", "00-1"))
    second = head(ALICE, ("traceparent", "00-2"), last=first)
    third = head(ALICE, ("traceparent", "00-3"), last=second)  # made before the second was answered
    assert of(second).credential is not of(first).credential
    fourth = head(ALICE, ("traceparent", "00-4"), last=second)
    assert of(fourth).credential is of(second).credential
    assert of(third).credential is not of(second).credential
    assert [of(one).passed[-4:-2] for one in (first, second, third, fourth)] == ["-1", "-2", "-3", "-4"]


def test_no_token_is_formatted() -> None:
    """An opening that is printed by accident tells none."""
    assert "alice" not in f"{of(head(ALICE))!r} {of(head(ALICE))}"
