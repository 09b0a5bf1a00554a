"""Whose connection it is: the peer, or whom a trusted load balancer says it stands for."""

import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

PREFIX: Final = 64  # bits; who has one IPv6 address has all of its /64 (RFC 4291, section 2.5.4)

Network = IPv4Network | IPv6Network

# Some balancers write the port too: `203.0.113.7:50123`, `[2001:db8::7]:50123` (RFC 7239, section 6).
_WITH_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::[0-9]{1,5})?", re.ASCII)


class ClientAddresses:
    """Reads `X-Forwarded-For` from the right, as far as the addresses are trusted ones."""

    def __init__(self, trusted: Sequence[Network]) -> None:
        self._trusted = tuple(trusted)

    def address(self, peer: str | None, forwarded: Sequence[str]) -> str:
        """The client's address, in its canonical form and without a port.

        What a peer that is not trusted says of others is not believed. An entry that is no address
        ends the reading: the last that was one is then the client.
        """
        if not forwarded:
            return _plain(peer or "")
        address = _parse(peer or "")
        if address is None:
            return peer or ""
        if self._trusts(address):
            hops = [hop for line in forwarded for hop in line.split(",")]
            for hop in reversed(hops):
                further = _parse(hop.strip(" \t"))
                if further is None:
                    break
                address = further
                if not self._trusts(further):
                    break
        return _shown(address)

    def trusts(self, peer: str) -> bool:
        """Whether a peer is a load balancer of ours, which stands for many clients."""
        address = _parse(peer) if self._trusted else None
        return address is not None and self._trusts(address)

    def _trusts(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._trusted)


@lru_cache(maxsize=4096)
def group(client: str) -> str:
    """What counts as one client: an IPv4 address, or the /64 of an IPv6 address."""
    address = _parse(client.partition("%")[0])
    if address is None:
        return client
    if isinstance(address, IPv6Address):
        return str(IPv6Network((int(address), PREFIX), strict=False))
    return str(address)


@lru_cache(maxsize=4096)
def _plain(peer: str) -> str:
    address = _parse(peer)
    return peer if address is None else str(address)


@lru_cache(maxsize=4096)
def _shown(address: IPv4Address | IPv6Address) -> str:
    return str(address)


@lru_cache(maxsize=4096)
def _parse(text: str) -> IPv4Address | IPv6Address | None:
    match = _WITH_PORT.fullmatch(text)
    if match is not None:
        text = match.group(1) or match.group(2)
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:  # free text, which nothing here needs (RFC 4007, section 11)
            return None
        return address.ipv4_mapped or address  # what a socket for both families makes of IPv4 peers
    return address
