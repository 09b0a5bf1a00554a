"""Which account of the Hub an entry in the configuration means: names change hands there, ids do not.

An entry of a list of callers, or of limits, means one account: the one whose id is written beside the
name, else the first one that was seen under the name since it was configured. The name is kept for that
account, whatever it is called later (`name_book`); another account under the same name inherits nothing.
A block means every account that was ever seen under the name, and whoever takes the name next.

Names are looked up when the Hub has said who a caller is, at most once per token and `identity_ttl`. The
result is part of the identity, so that a request only compares sets.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol

import msgspec
import structlog
from prometheus_client import Counter as PromCounter

from hubgate.proxy.auth.name_book import Kind, NameBook, by_id, by_name
from hubgate.proxy.errors import Denied
from hubgate.proxy.frozen_struct import FrozenStruct
from hubgate.proxy.settings import Callers, Limits, read_account
from hubgate.wire.bounded_map import BoundedMap

log = structlog.get_logger("callers")

_REPORTED: Final = 10_000  # conflicts that are remembered as logged

# The fault is ours and nobody's token is refused, so that no budget of refusals bounds how often it is met.
UNRECORDED: Final = Denied(
    "hub_unavailable",
    "Your account cannot be recorded right now, so access cannot be checked.",
    retry_after=5,
)


class Account(FrozenStruct):
    """A user or an organization as whoami tells of it; `id` is "" where it gives none."""

    kind: Kind
    name: str
    id: str


class Standing(FrozenStruct):
    """By which entries a caller's accounts are meant, those of the user and of the organizations together."""

    holds: frozenset[str]  # in lists and overrides: the ids, and the names that are theirs
    known_as: frozenset[str]  # in blocks: the ids, and all names that they were seen under


class Told(msgspec.Struct, frozen=True):
    """What one proxy knows of an account: its names, and which of them are to be kept for it."""

    kind: Kind
    id: str
    names: tuple[str, ...]
    kept: tuple[str, ...]


class SharedNames(Protocol):
    """What several proxies know together. Each answer is `None` while it cannot be had."""

    async def owners(self) -> Mapping[str, str] | None:
        """Whose each kept name is, by `by_name`."""

    async def exchange(self, told: Sequence[Told]) -> Sequence[Sequence[tuple[str, str]]] | None:
        """For each account all of its names, each with the id that the name is kept for, or ""."""


def listed(users: Iterable[str], orgs: Iterable[str]) -> frozenset[str]:
    """What an identity holds that is listed by such entries: the id where one is written, else the name."""
    return frozenset(held(kind, text) for kind, text in _entries(users, orgs))


def held(kind: Kind, entry: str) -> str:
    """The same for one entry."""
    name, account = read_account(entry)
    return by_id(kind, account) if account else by_name(kind, name)


def blocked(users: Iterable[str], orgs: Iterable[str]) -> frozenset[str]:
    """What an identity is known as that is blocked by such entries: the id, and the name too."""
    both = set()
    for kind, text in _entries(users, orgs):
        name, account = read_account(text)
        both |= {by_name(kind, name)} if name else set()
        both |= {by_id(kind, account)} if account else set()
    return frozenset(both)


def _entries(users: Iterable[str], orgs: Iterable[str]) -> Iterable[tuple[Kind, str]]:
    yield from (("user", text) for text in users)
    yield from (("org", text) for text in orgs)


def to_write(callers: Callers, limits: Limits, owners: Mapping[str, str]) -> list[str]:
    """For each entry that is a name alone and kept for an account: where it is, and how to write it."""
    places: Sequence[tuple[str, Kind, Iterable[str]]] = (
        ("callers.users", "user", callers.users),
        ("callers.orgs", "org", callers.orgs),
        ("limits.overrides.users", "user", limits.overrides.users),
        ("limits.overrides.orgs", "org", limits.overrides.orgs),
        ("limits.organizations", "org", limits.organizations),
    )
    return [
        f"{place}: {name}={owners[by_name(kind, name)]}"
        for place, kind, names in places
        for name in sorted(names)
        if by_name(kind, name) in owners
    ]


def of_local_key(user: str) -> Standing:
    """A local key has no account on the Hub; it can be blocked as it is called in the audit."""
    name = by_name("user", user)
    return Standing(frozenset({name}), frozenset({name}))


class Accounts:
    """Finds what callers are listed as. Names are kept in `book`, and in `shared` where there is one."""

    def __init__(
        self,
        book: NameBook,
        shared: SharedNames | None,
        conflicts: PromCounter,
        callers: Callers,
        limits: Limits,
    ) -> None:
        self._book = book
        self._shared = shared
        self._conflicts = conflicts
        self._reported: BoundedMap[tuple[Account, str], None] = BoundedMap(_REPORTED)
        self.replace(callers, limits)

    def replace(self, callers: Callers, limits: Limits) -> None:
        """Go by other lists from the next caller on that the Hub tells of."""
        users, orgs = callers.users | limits.users, callers.orgs | limits.orgs
        self._written: dict[str, str] = {}  # ids, by name
        self._names_written: dict[str, list[str]] = {}  # the other way round
        for kind, text in _entries(users, orgs):
            name, account = read_account(text)
            if name and account:
                self._written[by_name(kind, name)] = account
                self._names_written.setdefault(by_id(kind, account), []).append(name)
        # Among them names that stand alone, and are kept for whom they are seen with first.
        self._entries = listed(users, orgs)
        self._anyone = callers.anyone
        self._listed = listed(callers.users, callers.orgs)
        self._blocked = blocked(callers.block.users, callers.block.orgs)

    async def start(self) -> None:
        """Learn what the other proxies know."""
        owners = await self._shared.owners() if self._shared is not None else None
        for key, account in (owners or {}).items():
            kind, _, name = key.partition(":")
            self._book.keep("user" if kind == "user" else "org", name, account)

    async def meet(self, accounts: Sequence[Account]) -> Standing | Denied:
        """Say what a caller with these accounts is listed as, and remember it before anybody is let in.

        Gives `UNRECORDED` to whose name has yet to be kept, where that cannot be done.
        """
        agreed = await self._exchange([account for account in accounts if account.id])
        for account in accounts:
            if account.id and self._unowned(account):
                if not agreed:
                    return UNRECORDED
                self._book.keep(account.kind, account.name, account.id)
        standing = self._standing(accounts)
        for account in accounts:
            self._report(account, standing)
        if self._anyone or standing.holds & self._listed or standing.known_as & self._blocked:
            for account in accounts:
                if account.id:
                    always = self._configured(account)
                    self._book.see(account.kind, account.name, account.id, always=always)
        try:
            await self._book.save()
        except OSError as error:
            log.error("names cannot be saved", error=error.strerror)  # noqa: TRY400 - it says all
            if not all(self._book.saved(account.kind, account.name) for account in accounts):
                return UNRECORDED
        return standing

    async def _exchange(self, accounts: Sequence[Account]) -> bool:
        """Tell the other proxies of accounts, and learn what they know; whether that worked."""
        if self._shared is None or not accounts:
            return True
        found = await self._shared.exchange([self._told(account) for account in accounts])
        if found is None:
            return False
        for account, names in zip(accounts, found, strict=True):
            for name, owner in names:
                self._book.see(account.kind, name, account.id, always=True)
                if owner:
                    self._book.keep(account.kind, name, owner)
        return True

    def _told(self, account: Account) -> Told:
        names = set(self._book.names(account.kind, account.id))
        kept = {name for name in names if self._book.owner(account.kind, name) == account.id}
        if self._configured(account):
            names.add(account.name)
        if self._unowned(account):
            kept.add(account.name)
        return Told(account.kind, account.id, tuple(names), tuple(kept))

    def _standing(self, accounts: Sequence[Account]) -> Standing:
        holds, known_as = set(), set()
        for account in accounts:
            names = {account.name}
            if account.id:
                own = by_id(account.kind, account.id)
                holds.add(own)
                known_as.add(own)
                names |= {*self._book.names(account.kind, account.id), *self._names_written.get(own, ())}
            for name in names:
                known_as.add(by_name(account.kind, name))
                # Where the Hub gives no id, a name that is nobody's yet has to do.
                if (self._owner(account.kind, name) or "") == account.id:
                    holds.add(by_name(account.kind, name))
        return Standing(frozenset(holds), frozenset(known_as))

    def _owner(self, kind: Kind, name: str) -> str | None:
        return self._written.get(by_name(kind, name)) or self._book.owner(kind, name)

    def _unowned(self, account: Account) -> bool:
        """Whether the name is configured and nobody's yet."""
        configured = by_name(account.kind, account.name) in self._entries
        return configured and self._owner(account.kind, account.name) is None

    def _configured(self, account: Account) -> bool:
        name = by_name(account.kind, account.name)
        return name in self._entries or name in self._written or name in self._blocked

    def _report(self, account: Account, standing: Standing) -> None:
        """Tell the operator of an account under a name that is listed for another one."""
        name = by_name(account.kind, account.name)
        if name in standing.holds or not (name in self._entries or name in self._written):
            return
        self._conflicts.labels(account.kind).inc()
        owner = self._owner(account.kind, account.name) or ""
        if (account, owner) not in self._reported:
            self._reported.put((account, owner), None)
            log.warning(
                "a configured name is used by another account",
                kind=account.kind,
                name=account.name,
                kept_for=owner,
                seen_with=account.id,
                hint="the account seen with it inherits nothing; if you mean that one, write name=ID",
            )
