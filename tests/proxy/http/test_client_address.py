"""The client's address is the peer's, unless a trusted balancer says for whom it stands."""

from ipaddress import ip_network

from hubgate.proxy.http.client_address import ClientAddresses
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
