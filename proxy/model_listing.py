"""`GET /v1/models`: what this caller may use, and never what others have loaded."""

from typing import Any, Final

from hubgate.proxy.auth.authorization import Access, Authorizer
from hubgate.proxy.auth.identity import Caller
from hubgate.proxy.auth.policy import ModelPolicy
from hubgate.proxy.errors import Denied
from hubgate.wire.bounded_map import BoundedMap
from hubgate.wire.repo import RepoRef

MAX_CALLERS: Final = 10_000
MAX_GRANTED: Final = 100  # per caller


class ModelListing:
    """Lists the configured models, the aliases, and what the caller was lately granted.

    Each is listed only while the caller's access to it holds.
    """

    def __init__(self, authorizer: Authorizer, policy: ModelPolicy) -> None:
        self._authorizer = authorizer
        self._policy = policy
        # Names by `sub`, each in the order of its coming.
        self._granted: BoundedMap[str, BoundedMap[str, None]] = BoundedMap(MAX_CALLERS)

    def granted(self, caller: Caller, access: Access) -> None:
        """Remember that this caller was granted this model. Over the bounds, the oldest goes first."""
        sub, name = caller.identity.sub, (access.adapter or access.base).id
        mine = self._granted.get(sub)
        if mine is not None and name in mine:
            return
        if mine is None:
            mine = BoundedMap(MAX_GRANTED)
            self._granted.put(sub, mine)
        mine.put(name, None)

    async def all(self, caller: Caller) -> dict[str, Any] | Denied:
        """The body of `GET /v1/models`; an outage of the Hub is told, and is no empty list."""
        names = {name: name for name in self._policy.configured}
        names |= self._policy.models.aliases
        names |= {name: name for name in self._granted.get(caller.identity.sub, ())}
        cards = []
        for name, repo in names.items():
            refused = await self._authorizer.refusal(caller, RepoRef.parse(repo))
            if refused is None:
                cards.append(model_card(name))
            elif refused.code == "hub_unavailable":
                return refused
        return {"object": "list", "data": cards}


def model_card(name: str) -> dict[str, Any]:
    """One model as `GET /v1/models/{name}` shows it."""
    # `created` is required by the SDKs and means nothing for a repo; 0 says so.
    return {"id": name, "object": "model", "created": 0, "owned_by": name.partition("/")[0]}
