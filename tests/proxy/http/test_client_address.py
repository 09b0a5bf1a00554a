"""The client's address is the peer's, unless a trusted balancer says for whom it stands."""

from ipaddress import ip_network

from hubgate.proxy.http.client_address import PREFIX, ClientAddresses, group
from tests.cases import each

TRUSTED = [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]


@each(
    ("peer", "forwarded", "expected"),
    [
        ("198.51.100.7", [], "198.51.100.7"),
        ("198.51.100.7", ["203.0.113.1"], "198.51.100.7"),  # anybody can write the header
        ("10.0.0.1", ["203.0.113.1"], "203.0.113.1"),
        ("10.0.0.1", ["6.6.6.6, 203.0.113.1"], "203.0.113.1"),  # the left ones are the client's own words
        ("10.0.0.1", ["6.6.6.6", "203.0.113.1, 10.0.0.2"], "203.0.113.1"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["203.0.113.1, junk"], "10.0.0.1"),
        ("fd00::1", ["2001:db8::7"], "2001:db8::7"),
        ("10.0.0.1", ["203.0.113.1:50123"], "203.0.113.1"),
        ("10.0.0.1", ["[2001:db8::7]:50123"], "2001:db8::7"),
        ("10.0.0.1", ["[2001:db8::7]"], "2001:db8::7"),
        ("10.0.0.1", ["203.0.113.1, 10.0.0.2:8080"], "203.0.113.1"),
        ("10.0.0.1", ["2001:DB8:0::7"], "2001:db8::7"),
        ("10.0.0.1", ["::ffff:203.0.113.1"], "203.0.113.1"),
        ("::ffff:10.0.0.1", ["203.0.113.1"], "203.0.113.1"),  # a socket for both families
        ("::ffff:198.51.100.7", ["203.0.113.1"], "198.51.100.7"),
        ("10.0.0.1", ["203.0.113.1:"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.1:port"], "10.0.0.1"),
        ("10.0.0.1", ["[203.0.113.1"], "10.0.0.1"),
        ("10.0.0.1", ["fe80::1%what ever"], "10.0.0.1"),
        ("10.0.0.1", ["unknown"], "10.0.0.1"),
        ("10.0.0.1", ["6.6.6.6, "], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        (None, ["203.0.113.1"], ""),
    ],
)
def test_the_rightmost_untrusted_address_counts(
    peer: str | None, forwarded: list[str], expected: str
) -> None:
    """X-Forwarded-For is read from the right, as far as trusted networks vouch for it."""
    assert ClientAddresses(TRUSTED).address(peer, forwarded) == expected


def test_without_trusted_networks_nobody_is_believed() -> None:
    """The default believes no header at all."""
    assert ClientAddresses([]).address("10.0.0.1", ["203.0.113.1"]) == "10.0.0.1"


@each(
    ("one", "other", "same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("203.0.113.7", "::ffff:203.0.113.7", True),
        ("203.0.113.7", "::ffff:203.0.113.8", False),
        ("203.0.113.7", "203.0.113.8", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("", "junk", False),
    ],
)
def test_who_has_one_ipv6_address_has_many(one: str, other: str, *, same: bool) -> None:
    """A /64 counts as one client, and an IPv4 address is itself however it is written."""
    assert (group(one) == group(other)) is same


def test_the_prefix_is_what_a_site_gives_a_host() -> None:
    """RFC 4291, section 2.5.4: the rest of an address is the host's own to choose."""
    assert PREFIX == 64


@each(
    ("peer", "trusted"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("fd00::9", True),
        ("203.0.113.7", False),
        ("2001:db8::7", False),
        ("", False),
        ("junk", False),
    ],
)
def test_who_stands_for_many(peer: str, *, trusted: bool) -> None:
    """A peer of a trusted network is a load balancer; nobody is, where none is named."""
    assert ClientAddresses(TRUSTED).trusts(peer) is trusted
    assert not ClientAddresses([]).trusts(peer)
