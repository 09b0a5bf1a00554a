"""`GET /v1/models`: what this caller may use, and never what others have loaded."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from proxy.auth.authorization import Access, Authorizer
from proxy.auth.identity import Caller
from proxy.errors import Denied
from proxy.policy import ModelPolicy
from wire.repo import RepoRef

MAX_CALLERS = 10_000
MAX_GRANTED = 100  # per caller


class Listing:
    """Lists the configured models, the aliases, and what the caller was lately granted.

    Each is listed only while the caller's access to it holds.
    """

    def __init__(self, authorizer: Authorizer, policy: ModelPolicy, aliases: Mapping[str, str]) -> None:
        self._authorizer = authorizer
        self._configured = policy.configured
        self._aliases = aliases
        self._granted: OrderedDict[str, OrderedDict[str, None]] = OrderedDict()

    def granted(self, caller: Caller, access: Access) -> None:
        """Remember that this caller was granted this model."""
        mine = self._granted.setdefault(caller.identity.sub, OrderedDict())
        self._granted.move_to_end(caller.identity.sub)
        name = (access.adapter or access.base).id
        mine[name] = None
        mine.move_to_end(name)
        if len(mine) > MAX_GRANTED:
            mine.popitem(last=False)
        if len(self._granted) > MAX_CALLERS:
            self._granted.popitem(last=False)

    async def all(self, caller: Caller) -> dict[str, Any]:
        """The body of `GET /v1/models`."""
        names = {name: name for name in self._configured}
        names |= dict(self._aliases)
        names |= {name: name for name in self._granted.get(caller.identity.sub, ())}
        cards = [
            _card(name)
            for name, repo in names.items()
            if await self._authorizer.may_read(caller, RepoRef.parse(repo))
        ]
        return {"object": "list", "data": cards}

    async def one(self, caller: Caller, name: str) -> dict[str, Any] | Denied:
        """The body of `GET /v1/models/{name}`: the name pinned to what would answer now."""
        repo = self._authorizer.name(name)
        if isinstance(repo, Denied):
            return repo
        access, _ = await self._authorizer.authorize(caller, repo)
        return access if isinstance(access, Denied) else _card(access.model)


def _card(name: str) -> dict[str, Any]:
    # `created` is required by the SDKs and means nothing for a repo; 0 says so.
    return {"id": name, "object": "model", "created": 0, "owned_by": name.partition("/")[0]}
