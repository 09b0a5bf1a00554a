"""How much each caller may use: the default, or what the operator said of a key, user or organization."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from hubgate.proxy import settings
from hubgate.proxy.auth import accounts
from hubgate.proxy.auth.identity import Identity
from hubgate.proxy.auth.name_book import Kind
from hubgate.proxy.settings import LocalKey, Override


class Allowance(NamedTuple):
    """The numbers of one caller; each is counted for that caller alone, also where an org sets it."""

    requests_per_minute: int
    tokens_per_minute: int
    concurrent_requests: int
    cold_loads_per_hour: int
    weight: int  # of the caller's share of an engine


_Numbers = tuple[int | None, ...]  # those of an `Allowance`, in its order; `None`: not overridden


class Allowances:
    """Finds a caller's numbers, each by itself: the key's own, else the user's, the orgs', the default.

    Of several organizations the most generous number counts: one gives its members more than everybody,
    and being in a second one must not take that away. So an override that throttles an organization
    does not reach members whom another one favours; to throttle a person for certain, name the user. The
    same counts of several entries that mean one user.
    """

    def __init__(self, limits: settings.Limits, keys: Sequence[LocalKey]) -> None:
        default = {number: getattr(limits, number) for number in Allowance._fields}
        self._default = Allowance(**default)
        self._keys = {key.name: _numbers(key.limits) for key in keys if key.limits is not None}
        self._users = _by_account("user", limits.overrides.users)
        self._orgs = _by_account("org", limits.overrides.orgs)

    def of(self, identity: Identity) -> Allowance:
        """What this caller may use."""
        allowed = self._default
        if self._orgs and (orgs := self._orgs.keys() & identity.holds):
            allowed = _over(allowed, _most([self._orgs[org] for org in orgs]))
        if self._users and (users := self._users.keys() & identity.holds):
            allowed = _over(allowed, _most([self._users[user] for user in users]))
        if identity.kind == "key" and (own := self._keys.get(identity.token_name)) is not None:
            allowed = _over(allowed, own)
        return allowed


def _by_account(kind: Kind, overrides: Mapping[str, Override]) -> dict[str, _Numbers]:
    """By what an identity holds. Where `alice=ID` and `id:ID` both stand there, the larger numbers count."""
    found: dict[str, _Numbers] = {}
    for entry, override in overrides.items():
        held = accounts.held(kind, entry)
        numbers = _numbers(override)
        found[held] = _most([found[held], numbers]) if held in found else numbers
    return found


def _numbers(override: Override) -> _Numbers:
    return tuple(getattr(override, number) for number in Allowance._fields)


def _over(allowed: Allowance, numbers: _Numbers) -> Allowance:
    return Allowance._make(
        below if above is None else above for below, above in zip(allowed, numbers, strict=True)
    )


def _most(overrides: Sequence[_Numbers]) -> _Numbers:
    if len(overrides) == 1:
        return overrides[0]
    return tuple(_largest(numbers) for numbers in zip(*overrides, strict=True))


def _largest(numbers: Iterable[int | None]) -> int | None:
    return max((number for number in numbers if number is not None), default=None)
