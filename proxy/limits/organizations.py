"""What the members of an organization may use together, beside what each of them may."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from hubgate.proxy.auth import accounts
from hubgate.proxy.auth.identity import Identity
from hubgate.proxy.limits.memory_counters import UNBOUNDED
from hubgate.proxy.settings import OrganizationLimits, read_account

_NUMBERS: Final = tuple(OrganizationLimits.model_fields)


class Pooled(NamedTuple):
    """The numbers of one organization, for all members together; `UNBOUNDED` where it has none."""

    key: str  # what it is counted by: no caller's `sub` looks like it
    name: str  # what its members are told
    requests_per_minute: int
    tokens_per_minute: int
    concurrent_requests: int
    cold_loads_per_hour: int


class Organizations:
    """Finds the organizations with such numbers that a caller is a member of, by the Hub's whoami."""

    def __init__(self, limits: Mapping[str, OrganizationLimits]) -> None:
        self._pooled: dict[str, Pooled] = {}
        for entry, numbers in limits.items():
            key = accounts.held("org", entry)
            found = [getattr(numbers, number) or UNBOUNDED for number in _NUMBERS]
            if (other := self._pooled.get(key)) is not None:  # `acme=ID` and `id:ID`
                found = [_least(one, two) for one, two in zip(found, other[2:], strict=True)]
            self._pooled[key] = Pooled(key, read_account(entry)[0] or "your organization", *found)

    def of(self, identity: Identity) -> tuple[Pooled, ...]:
        """Each of them counts; a local key is a member of none."""
        if not self._pooled:
            return ()
        return tuple([self._pooled[key] for key in sorted(self._pooled.keys() & identity.holds)])


def _least(one: int, two: int) -> int:
    return max(one, two) if UNBOUNDED in (one, two) else min(one, two)
