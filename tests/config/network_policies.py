"""Who reaches whom under some NetworkPolicies, as the Kubernetes documentation says it.

https://kubernetes.io/docs/concepts/services-networking/network-policies/ says: a pod that no policy selects
is open, in each direction; else what any of its policies allows is allowed. A connection needs both consents.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

Policy = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Peer:
    """A pod, or, without a namespace, an address outside of the cluster."""

    name: str
    namespace: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    address: str = "10.1.2.3"


def reaches(policies: Iterable[Policy], source: Peer, target: Peer, port: int) -> bool:
    """Whether a TCP connection from one to the other can be made."""
    every = list(policies)
    leaves = _allowed(every, "Egress", (source, target), port)
    return leaves and _allowed(every, "Ingress", (target, source), port)


def _allowed(policies: list[Policy], direction: str, ends: tuple[Peer, Peer], port: int) -> bool:
    pod, other = ends
    own = [
        one["spec"]
        for one in policies
        if pod.namespace == one["metadata"]["namespace"]
        and direction in one["spec"]["policyTypes"]
        and _selected(one["spec"]["podSelector"], pod.labels)
    ]
    side = "from" if direction == "Ingress" else "to"
    return not own or any(
        _port(rule.get("ports"), port) and _peer(rule.get(side), pod, other)
        for spec in own
        for rule in spec.get(direction.lower(), ())
    )


def _port(ports: list[Mapping[str, Any]] | None, port: int) -> bool:
    return not ports or any(
        one.get("protocol", "TCP") == "TCP" and one["port"] <= port <= one.get("endPort", one["port"])
        for one in ports
    )


def _peer(peers: list[Mapping[str, Any]] | None, pod: Peer, other: Peer) -> bool:
    return not peers or any(_matches(peer, pod, other) for peer in peers)


def _matches(peer: Mapping[str, Any], pod: Peer, other: Peer) -> bool:
    if block := peer.get("ipBlock"):
        address = ip_address(other.address)
        inside = address in ip_network(block["cidr"])
        return inside and not any(address in ip_network(one) for one in block.get("except", ()))
    if other.namespace is None:
        return False
    if "namespaceSelector" in peer:
        named = {"kubernetes.io/metadata.name": other.namespace}
        fits = _selected(peer["namespaceSelector"], named)
    else:
        fits = other.namespace == pod.namespace
    return fits and _selected(peer.get("podSelector", {}), other.labels)


def _selected(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    assert selector.keys() <= {"matchLabels", "matchExpressions"}
    exact = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    expressions = selector.get("matchExpressions", ())
    assert all(one["operator"] == "In" for one in expressions), "nothing else is evaluated here"
    return exact and all(labels.get(one["key"]) in one["values"] for one in expressions)
