"""Whose connection it is: the peer, or whom a trusted load balancer says it stands for."""

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address

Network = IPv4Network | IPv6Network


class Clients:
    """Reads `X-Forwarded-For` from the right, as far as the addresses are trusted ones."""

    def __init__(self, trusted: Sequence[Network]) -> None:
        self._trusted = tuple(trusted)

    def address(self, peer: str | None, forwarded: Sequence[str]) -> str:
        """The client's address. What a peer that is not trusted says of others is not believed."""
        address = peer or ""
        if not self._trusted or not self._is_trusted(address):
            return address
        hops = [hop.strip() for line in forwarded for hop in line.split(",")]
        for hop in reversed(hops):
            if not _is_address(hop):
                return address
            address = hop
            if not self._is_trusted(hop):
                break
        return address

    def _is_trusted(self, text: str) -> bool:
        return _is_address(text) and any(ip_address(text) in network for network in self._trusted)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
