"""`GET /v1/models`: what this caller may use, and never what others have loaded."""

from collections import OrderedDict
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

    def __init__(self, authorizer: Authorizer, policy: ModelPolicy) -> None:
        self._authorizer = authorizer
        self._policy = policy
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

    async def all(self, caller: Caller) -> dict[str, Any] | Denied:
        """The body of `GET /v1/models`; an outage of the Hub is told, and is no empty list."""
        names = {name: name for name in self._policy.configured}
        names |= self._policy.models.aliases
        names |= {name: name for name in self._granted.get(caller.identity.sub, ())}
        cards = []
        for name, repo in names.items():
            refused = await self._authorizer.refusal(caller, RepoRef.parse(repo))
            if refused is None:
                cards.append(card(name))
            elif refused.code == "hub_unavailable":
                return refused
        return {"object": "list", "data": cards}


def card(name: str) -> dict[str, Any]:
    """One model as `GET /v1/models/{name}` shows it."""
    # `created` is required by the SDKs and means nothing for a repo; 0 says so.
    return {"id": name, "object": "model", "created": 0, "owned_by": name.partition("/")[0]}
