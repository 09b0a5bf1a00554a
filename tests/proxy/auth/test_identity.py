"""From a credential to an identity: pseudonyms, fingerprints, local keys, and what is cached."""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hubgate.demo.accounts import hub_id
from hubgate.demo.hub import DemoHub
from hubgate.proxy.auth.accounts import Accounts, Standing
from hubgate.proxy.auth.bearer import Credential
from hubgate.proxy.auth.identity import Caller, Identities, LocalKey
from hubgate.proxy.auth.unknown_tokens import REPEATERS_FACTOR, UnknownTokenLimiter
from hubgate.proxy.errors import Denied
from hubgate.proxy.hub.cache import Cache
from hubgate.proxy.hub.client import HubClient
from hubgate.proxy.hub.errors import HubErrors
from hubgate.proxy.hub.schemas import AccessToken, Auth, FineGrained, WhoAmI
from hubgate.wire.keys import ProxyKeys
from hubgate.wire.secret import Secret
from tests.fakes.answers import raw, whole
from tests.fakes.clock import Clock
from tests.fakes.engine import RawEngine
from tests.fakes.hub_client import MakeClient
from tests.fakes.keyring import Keyring

ALICE, BOB = Secret("hf_demo_alice"), Secret("hf_demo_bob")
KEY = "local-key-of-ci-1"
NOBODY = Standing(frozenset(), frozenset())

Make = Callable[..., Identities]


@pytest.fixture
def keys(tmp_path: Path) -> ProxyKeys:
    """A proxy's keys."""
    return Keyring.make(tmp_path).proxy


@pytest.fixture
def make(client: HubClient, keys: ProxyKeys, clock: Clock, accounts: Accounts) -> Make:
    """Makes the part under test, with local keys if given."""

    def made(
        *local: LocalKey, hub: HubClient = client, own: ProxyKeys = keys, digest: bytes = b"d" * 32
    ) -> Identities:
        def life(value: object) -> float:
            return (0 if value.code == "hub_unavailable" else 10) if isinstance(value, Denied) else 300

        by_hash = {hashlib.sha256(KEY.encode()).digest(): key for key in local}
        return Identities(
            hub,
            own,
            by_hash,
            UnknownTokenLimiter(100, clock),
            HubErrors("https://hub.test"),
            accounts=accounts,
            cache=Cache(capacity=10_000, ttl=life, clock=clock),
            digest_key=digest,
        )

    return made


async def resolved(identities: Identities, secret: Secret) -> Caller:
    """The caller behind a good credential."""
    caller, _ = await identities.resolve(secret, "192.0.2.1")
    assert isinstance(caller, Caller)
    return caller


async def refused(identities: Identities, secret: Secret) -> str:
    """The code for a bad one."""
    denied, _ = await identities.resolve(secret, "192.0.2.1")
    assert isinstance(denied, Denied)
    return denied.code


async def test_whoami_becomes_an_identity(make: Make, hub: DemoHub) -> None:
    """The identity holds what the policy and the audit need, and no credential."""
    alice = (await resolved(make(), ALICE)).identity
    assert (alice.user, alice.kind) == ("alice", "access_token")
    own, acme = f"user={hub_id('user', 'alice')}", f"org={hub_id('org', 'acme')}"
    assert alice.holds == {own, acme}  # names are nobody's where none is configured
    assert alice.known_as == {own, acme, "user:alice", "org:acme"}
    assert (alice.token_name, alice.role) == ("alice-ci", "fineGrained")
    assert alice.permissions == {"repo.content.read"}
    assert alice.created_at is not None
    assert alice.age_days(hub.state.clock()) == pytest.approx(10, abs=0.01)
    assert ALICE.reveal() not in repr(alice)


async def test_an_oauth_token_has_an_end(make: Make) -> None:
    """An OAuth token has no role and no age, but an end."""
    bob = (await resolved(make(), Secret("hf_oauth_demo_bob"))).identity
    assert (bob.kind, bob.role, bob.created_at) == ("oauth", "", None)
    assert bob.expires_at is not None


async def test_pseudonyms_follow_the_user_and_fingerprints_the_token(make: Make) -> None:
    """Two tokens of one user share `sub` and salt; each has a fingerprint of its own."""
    identities = make()
    one = (await resolved(identities, BOB)).identity
    other = (await resolved(identities, Secret("hf_oauth_demo_bob"))).identity
    alice = (await resolved(identities, ALICE)).identity
    assert (one.sub, one.salt) == (other.sub, other.salt)
    assert one.fingerprint != other.fingerprint
    assert len({one.sub, one.salt, alice.sub, alice.salt}) == 4
    assert "bob" not in one.sub + one.salt + one.fingerprint


async def test_pseudonyms_survive_a_restart_and_differ_between_proxies(make: Make, tmp_path: Path) -> None:
    """The pepper makes pseudonyms: the same for one key file, others for another."""
    first = (await resolved(make(), ALICE)).identity
    again = (await resolved(make(digest=b"e" * 32), ALICE)).identity
    assert (first.sub, first.salt, first.fingerprint) == (again.sub, again.salt, again.fingerprint)
    other = (await resolved(make(own=Keyring.make(tmp_path / "x").proxy), ALICE)).identity
    assert not {first.sub, first.salt, first.fingerprint} & {other.sub, other.salt, other.fingerprint}


def test_pseudonyms_outlive_a_release(make: Make, keys: ProxyKeys) -> None:
    """An operator blocks by fingerprint and reads an old audit by `sub`: the same pepper gives the same."""
    facts = WhoAmI(id="1", name="alice", type="user")
    alice = make(own=replace(keys, pepper=bytes(32)))._identity(facts, ALICE, NOBODY)
    assert alice.sub == "434c5327dfe18bce41a5e31f9dcf0a61"
    assert alice.salt == "bb5b8f9391db7d1032d890b8899aca48"
    assert alice.fingerprint == "e8ad65c448576c5a"


async def test_the_salt_can_stand_in_a_request(make: Make) -> None:
    """The engine takes at most 128 characters, and none of its own marks."""
    salt = (await resolved(make(), ALICE)).identity.salt
    assert len(salt) <= 128
    assert salt.isalnum()


async def test_tokens_that_differ_at_the_end_are_two(make: Make, hub: DemoHub) -> None:
    """No part of a token stands for the whole (CVE-2026-35030)."""
    identities = make()
    await resolved(identities, ALICE)
    for token in ("hf_demo_alicf", "hf_demo_alic", "hf_demo_alicee"):
        assert await refused(identities, Secret(token)) == "invalid_api_key"
    assert len(hub.log) == 4


async def test_good_and_bad_tokens_are_asked_once_each(make: Make, hub: DemoHub, clock: Clock) -> None:
    """An identity holds for its ttl, a refusal for a shorter one."""
    identities = make()
    for _ in range(3):
        await resolved(identities, ALICE)
        await refused(identities, Secret("hf_demo_unknown"))
    assert len(hub.log) == 2
    clock.advance(10)
    await resolved(identities, ALICE)
    await refused(identities, Secret("hf_demo_unknown"))
    assert len(hub.log) == 3


async def test_an_outage_is_not_kept(make: Make, hub: DemoHub) -> None:
    """While the Hub is down nobody new gets in; as soon as it is back everybody does."""
    identities = make()
    hub.state.set_down("503")
    assert await refused(identities, ALICE) == "hub_unavailable"
    hub.state.set_down(None)
    await resolved(identities, ALICE)


async def test_an_outage_uses_up_no_budget(make: Make, hub: DemoHub, clock: Clock) -> None:
    """What the Hub did not say no to is no unknown token: soon the same client is asked for as before."""
    identities = make()
    hub.state.set_down("503")
    for number in range(100):
        assert await refused(identities, Secret(f"hf_unheard_{number}")) == "hub_unavailable"
    hub.state.set_down(None)
    clock.advance(31)  # the breaker's longest pause, within the client's minute
    assert await refused(identities, Secret("hf_unheard_0")) == "invalid_api_key"
    assert (await resolved(identities, ALICE)).identity.user == "alice"


async def test_forget_asks_anew(make: Make, hub: DemoHub) -> None:
    """Once forgotten, a revoked token is refused at once."""
    identities = make()
    alice = await resolved(identities, ALICE)
    hub.state.revoke(user="alice")
    await resolved(identities, ALICE)
    identities.forget(alice)
    assert await refused(identities, ALICE) == "invalid_api_key"


async def test_who_is_known_is_found_without_a_wait(make: Make, clock: Clock) -> None:
    """Once resolved and while that is fresh; a token that is bad, or whose time is over, is nobody's."""
    identities = make()
    assert identities.known(Credential(ALICE)) is None
    alice = await resolved(identities, ALICE)
    known = identities.known(Credential(ALICE))
    assert known is not None
    assert (known.identity, known.token, known.digest) == (alice.identity, ALICE, alice.digest)
    assert await refused(identities, Secret("hf_nobody")) == "invalid_api_key"
    assert identities.known(Credential(Secret("hf_nobody"))) is None
    assert identities.known(Credential(Secret("api_org_secret"))) is None
    clock.advance(300)
    assert identities.known(Credential(ALICE)) is None


async def test_all_are_forgotten_together(make: Make, hub: DemoHub) -> None:
    """After a reload everybody is asked about anew."""
    identities = make()
    for secret in (ALICE, BOB):
        await resolved(identities, secret)
    identities.forget_all()
    asked = len(hub.log)
    for secret in (ALICE, BOB):
        assert (await identities.resolve(secret, "192.0.2.1"))[1] == "hub"
    assert len(hub.log) == asked + 2


async def test_a_caller_is_renewed_when_its_time_is_over(make: Make, hub: DemoHub, clock: Clock) -> None:
    """Within its life the same identity comes from the cache; after it, the Hub decides again."""
    identities = make()
    alice = await resolved(identities, ALICE)
    again, source = await identities.renew(alice, "192.0.2.1")
    assert (again, source) == (alice, "cache")
    hub.state.revoke(user="alice")
    clock.advance(301)
    denied, source = await identities.renew(alice, "192.0.2.1")
    assert isinstance(denied, Denied)
    assert (denied.code, source) == ("invalid_api_key", "hub")


async def test_a_local_key_is_not_renewed(make: Make) -> None:
    """It is the operator's own: the Hub is not asked about it."""
    identities = make(LocalKey("ci", (), lambda: BOB))
    ci, source = await identities.resolve(Secret(KEY), "192.0.2.1")
    assert isinstance(ci, Caller)
    assert source == "key"
    assert await identities.renew(ci, "192.0.2.1") == (ci, "key")


@pytest.mark.parametrize(("clients", "most"), [(1, 100), (1_000, 1_000 + 100 * REPEATERS_FACTOR)])
async def test_ten_thousand_random_tokens_hurt_nobody(
    make: Make, hub: DemoHub, clients: int, most: int
) -> None:
    """They cost a bounded number of questions, and good callers, known or new, are let in all the while."""
    identities = make()
    await resolved(identities, BOB)
    asked = len(hub.log)
    codes = set()
    for number in range(10_000):
        client = number % clients
        address = f"198.18.{client // 250}.{client % 250}"
        denied, _ = await identities.resolve(Secret(f"hf_junk_{number}"), address)
        assert isinstance(denied, Denied)
        codes.add(denied.code)
        if number == 5_000:
            await resolved(identities, BOB)
            await resolved(identities, Secret("hf_demo_eve"))
    assert codes == {"invalid_api_key", "rate_limit_exceeded"}
    assert len(hub.log) - asked == most + 1
    await resolved(identities, BOB)
    await resolved(identities, ALICE)


async def test_what_was_accepted_is_asked_about_whatever_neighbours_try(
    make: Make, hub: DemoHub, clock: Clock
) -> None:
    """The budget of unknown tokens is not that of one which the Hub knew, however long ago."""
    identities = make()
    await resolved(identities, ALICE)
    clock.advance(300)
    for number in range(101):
        code = await refused(identities, Secret(f"hf_junk{number}"))
        assert code == ("invalid_api_key" if number < 100 else "rate_limit_exceeded")
    await resolved(identities, ALICE)
    assert await refused(identities, BOB) == "rate_limit_exceeded"


async def test_what_was_accepted_stays_so_until_the_hub_says_no(make: Make, hub: DemoHub) -> None:
    """Neither an outage nor a reload ends it; a refusal does, whichever question it answers."""
    identities, credential = make(), Credential(ALICE)
    assert not identities.accepted(credential, "192.0.2.1")
    caller = await resolved(identities, ALICE)
    assert identities.accepted(credential, "192.0.2.99")
    identities.forget_all()
    hub.state.set_down("503")
    assert await refused(identities, ALICE) == "hub_unavailable"
    assert identities.accepted(credential, "192.0.2.1")
    hub.state.set_down(None)
    identities.forget(caller)  # its token was refused elsewhere
    assert not identities.accepted(credential, "192.0.2.1")


async def test_a_revoked_token_is_accepted_no_more(make: Make, hub: DemoHub) -> None:
    """The next whoami says so."""
    identities, credential = make(), Credential(ALICE)
    await resolved(identities, ALICE)
    hub.state.revoke(user="alice")
    identities.forget_all()
    assert identities.accepted(credential, "192.0.2.1")
    assert await refused(identities, ALICE) == "invalid_api_key"
    assert not identities.accepted(credential, "192.0.2.1")


async def test_a_local_key_is_accepted_of_who_used_it(make: Make) -> None:
    """Who guesses one that others use is not told so past the budget."""
    identities = make(LocalKey(name="ci", models=(), read_token=lambda: ALICE))
    credential = Credential(Secret(KEY))
    await resolved(identities, credential.secret)
    assert await refused(identities, Secret("another")) == "invalid_api_key"
    assert identities.accepted(credential, "192.0.2.1")
    assert not identities.accepted(credential, "192.0.2.2")
    assert not identities.accepted(Credential(Secret("another")), "192.0.2.1")


async def test_a_burst_with_one_good_token_is_one_question(make: Make, hub: DemoHub) -> None:
    """Whoever comes while the Hub is asked about their token waits for that answer."""
    identities = make()
    callers = await asyncio.gather(*(resolved(identities, BOB) for _ in range(20)))
    assert all(caller == callers[0] for caller in callers)
    assert len(hub.log) == 1


async def test_a_burst_with_one_bad_token_is_one_question(make: Make, hub: DemoHub) -> None:
    """That the Hub does not know a token holds for everybody who sends it: they share the one answer."""
    identities, bad = make(), Secret("hf_demo_unknown")
    codes = await asyncio.gather(*(refused(identities, bad) for _ in range(20)))
    assert set(codes) == {"invalid_api_key"}
    assert len(hub.log) == 1


async def test_who_asks_too_much_is_refused_alone(make: Make) -> None:
    """Another client with the same good token, at the same moment, does not share in the refusal."""
    identities = make()
    for number in range(100):
        await identities.resolve(Secret(f"hf_junk_{number}"), "192.0.2.1")
    (first, _), (second, _) = await asyncio.gather(
        identities.resolve(BOB, "192.0.2.1"), identities.resolve(BOB, "192.0.2.2")
    )
    assert isinstance(first, Denied)
    assert first.code == "rate_limit_exceeded"
    assert isinstance(second, Caller)


@pytest.mark.parametrize("text", ["sk-123", "Bearer", "hf_", "hf_a.b", "eyJhbGciOi.x.y", KEY])
async def test_other_credentials_are_not_sent_to_the_hub(make: Make, hub: DemoHub, text: str) -> None:
    """What the Hub could not know asks it nothing."""
    assert await refused(make(), Secret(text)) == "invalid_api_key"
    assert len(hub.log) == 0


@pytest.mark.parametrize("text", ["api_org_abc", "hf_jwt_abc"])
async def test_tokens_of_nobody_are_known_from_nowhere(make: Make, hub: DemoHub, text: str) -> None:
    """Their form alone refuses them: the Hub is not asked, and neither a cache nor a key had the answer."""
    denied, source = await make().resolve(Secret(text), "192.0.2.1")
    assert isinstance(denied, Denied)
    assert (denied.code, source) == ("invalid_api_key", "none")
    assert len(hub.log) == 0


async def test_a_local_key_stands_for_its_token(make: Make, hub: DemoHub) -> None:
    """A key of the proxy's own is an identity by its name; the Hub is asked with the token behind it."""
    caller = await resolved(make(LocalKey("ci", ("demo/*",), lambda: BOB)), Secret(KEY))
    assert (caller.identity.user, caller.identity.kind, caller.identity.models) == (
        "key:ci",
        "key",
        ("demo/*",),
    )
    assert caller.token == BOB
    assert len(hub.log) == 0


async def test_a_local_key_follows_the_rotation_of_its_token(make: Make) -> None:
    """The token behind a key is read for each request, and caches do not mix the old and the new."""
    tokens = [BOB, ALICE]
    identities = make(LocalKey("ci", ("demo/*",), lambda: tokens.pop(0)))
    first, second = await resolved(identities, Secret(KEY)), await resolved(identities, Secret(KEY))
    assert (first.token, second.token) == (BOB, ALICE)
    assert first.digest != second.digest
    assert first.identity == second.identity


@pytest.mark.parametrize("token", [None, Secret("sk-123"), Secret("hf_a\N{REPLACEMENT CHARACTER}")])
async def test_a_local_key_without_a_good_token_is_an_outage(make: Make, token: Secret | None) -> None:
    """A key whose mounted secret is missing or broken is no fault of its caller, who may come back soon."""
    denied, _ = await make(LocalKey("ci", ("demo/*",), lambda: token)).resolve(Secret(KEY), "192.0.2.1")
    assert isinstance(denied, Denied)
    assert (denied.code, denied.retry_after) == ("hub_unavailable", 10)


WHOAMI = (
    '{"type":"user","id":"1","name":"alice",'
    '"auth":{"type":"access_token","accessToken":{"role":"fineGrained",%s}}}'
)


async def test_who_is_known_goes_on_while_whoami_is_limited_and_no_longer(
    make: Make, hub: DemoHub, clock: Clock
) -> None:
    """To the end of the identity's life, to the second: a revocation holds then, whatever the Hub says."""
    identities = make()
    await resolved(identities, ALICE)
    hub.state.set_down("429", paths="*whoami*")
    for number in range(5):
        assert await refused(identities, Secret(f"hf_new_{number}")) == "hub_unavailable"
    seconds = 0
    while isinstance((await identities.resolve(ALICE, "192.0.2.1"))[0], Caller):
        clock.advance(1)
        seconds += 1
    assert 300 * 0.9 <= seconds <= 300
    assert await refused(identities, ALICE) == "hub_unavailable"
    hub.state.set_down(None)
    hub.state.revoke("hf_demo_alice")
    clock.advance(300)
    assert await refused(identities, ALICE) == "invalid_api_key"


@pytest.fixture
def odd(rogue: RawEngine, make_client: MakeClient, make: Make) -> Callable[[str], Identities]:
    """Makes identities of a Hub that says this of every access token."""

    def made(facts: str) -> Identities:
        rogue.always(raw(whole(200, (WHOAMI % facts).encode())))
        return make(hub=make_client(f"http://127.0.0.1:{rogue.port}"))

    return made


@pytest.mark.parametrize("kind", ["org", "app", ""])
async def test_what_is_no_user_is_listed_as_nobody(
    rogue: RawEngine, make_client: MakeClient, make: Make, kind: str
) -> None:
    """An organization's or an app's own token neither has a user's name nor takes it."""
    facts = f'{{"type":"{kind}","id":"1","name":"alice","orgs":[]}}'
    rogue.always(raw(whole(200, facts.encode())))
    found = (await resolved(make(hub=make_client(f"http://127.0.0.1:{rogue.port}")), ALICE)).identity
    assert (found.user, found.kind, found.holds | found.known_as) == ("alice", "other", frozenset())


async def test_an_answer_without_an_id_is_an_outage(
    rogue: RawEngine, make_client: MakeClient, make: Make
) -> None:
    """Everybody whom a Hub gives no id would be one person."""
    rogue.always(raw(whole(200, b'{"type":"user","id":"","name":"alice","orgs":[]}')))
    identities = make(hub=make_client(f"http://127.0.0.1:{rogue.port}"))
    assert await refused(identities, ALICE) == "hub_unavailable"


@pytest.mark.parametrize(
    ("created", "seconds"),
    [
        ('"2026-07-23T10:27:03.276Z"', datetime(2026, 7, 23, 10, 27, 3, 276000, UTC).timestamp()),
        ('"2026-07-23T12:27:03+02:00"', datetime(2026, 7, 23, 10, 27, 3, 0, UTC).timestamp()),
        ('"2026-07-23T10:27:03"', datetime(2026, 7, 23, 10, 27, 3, 0, UTC).timestamp()),
        ('"yesterday"', None),
        ('""', None),
        ("null", None),
    ],
)
async def test_dates_are_read_in_their_time_zone(
    odd: Callable[[str], Identities], created: str, seconds: float | None
) -> None:
    """A date is a moment; what is no date is none."""
    alice = (await resolved(odd(f'"createdAt":{created}'), ALICE)).identity
    assert alice.created_at == seconds


@pytest.mark.parametrize(
    ("scoped", "permissions"),
    [
        ('[{"permissions":["repo.content.read"]}]', {"repo.content.read"}),
        ("[]", set()),
        ("[{}]", {"unknown"}),
        ('[{"permissions":null}]', {"unknown"}),
        ('[{"permissions":"repo.write"}]', {"unknown"}),
        ('[{"permissions":[null,5]}]', {"None", "5"}),
    ],
)
async def test_permissions_that_cannot_be_read_count_as_unknown(
    odd: Callable[[str], Identities], scoped: str, permissions: set[str]
) -> None:
    """A permission that is malformed is one that no policy allows."""
    facts = f'"fineGrained":{{"global":[],"scoped":{scoped}}}'
    assert (await resolved(odd(facts), ALICE)).identity.permissions == permissions


@pytest.mark.parametrize(
    ("token", "permissions"),
    [
        (AccessToken(role="read"), set()),
        (AccessToken(role="write"), set()),
        (AccessToken(role="fineGrained"), {"unknown"}),
        (AccessToken(role="fineGrained", fine_grained=FineGrained(global_=[])), {"unknown"}),
        (AccessToken(role="fineGrained", fine_grained=FineGrained(scoped=[])), {"unknown"}),
        (
            AccessToken(
                role="fineGrained",
                fine_grained=FineGrained(scoped=[{"permissions": ["a"]}], global_=["b"]),
            ),
            {"a", "b"},
        ),
    ],
)
def test_a_fine_grained_token_has_permissions(make: Make, token: AccessToken, permissions: set[str]) -> None:
    """Those of its scopes and the global ones; a list that is missing may hide any. Other roles have none."""
    facts = WhoAmI(id="1", name="alice", type="user", auth=Auth(type="access_token", access_token=token))
    assert make()._identity(facts, ALICE, NOBODY).permissions == permissions


@pytest.mark.parametrize(
    ("who", "auth", "kind"),
    [
        ("user", "access_token", "access_token"),
        ("user", "app_token_as_user", "oauth"),
        ("user", "app_token", "other"),
        ("user", "", "other"),
        ("org", "access_token", "other"),
        ("app", "app_token_as_user", "other"),
        ("", "access_token", "other"),
    ],
)
def test_only_people_have_a_kind_that_passes(make: Make, who: str, auth: str, kind: str) -> None:
    """An organization, an app, or a kind of token that nobody knew when this was written is `other`."""
    facts = WhoAmI(id="1", name="alice", type=who, auth=Auth(type=auth))
    identity = make()._identity(facts, ALICE, NOBODY)
    assert identity.kind == kind
    assert (identity.token_name, identity.role) == ("", "")
    assert (identity.created_at, identity.expires_at) == (None, None)
    assert identity.permissions == frozenset()
    assert [len(text) for text in (identity.sub, identity.salt, identity.fingerprint)] == [32, 32, 16]
    assert identity.models == ()


def test_what_a_key_shows(make: Make) -> None:
    """A local key has a name and its globs, and nothing that a Hub would have said."""
    made = make(LocalKey("ci", ("demo/*",), lambda: BOB))._local(Secret(KEY))
    assert isinstance(made, Caller)
    one = made.identity
    assert (one.user, one.token_name, one.kind, one.role) == ("key:ci", "ci", "key", "")
    assert (one.permissions, one.models) == (frozenset(), ("demo/*",))
    assert one.holds == one.known_as == {"user:key:ci"}
    assert len({one.sub, one.salt, one.fingerprint}) == 3


def test_age_is_counted_in_days(make: Make) -> None:
    """Seconds since it was made, by 86,400."""
    made = make()._identity(WhoAmI(id="1", name="a"), ALICE, NOBODY)
    assert replace(made, created_at=1000.0).age_days(1000 + 1.5 * 86400) == 1.5
    assert made.age_days(1000) is None
