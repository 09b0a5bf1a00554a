"""What the head of a request says by itself, whoever is known and whatever is loaded."""

from dataclasses import dataclass

from hubgate.proxy import endpoints
from hubgate.proxy.auth import bearer
from hubgate.proxy.auth.bearer import Credential
from hubgate.proxy.context import sane_id
from hubgate.proxy.endpoints import Route
from hubgate.proxy.errors import Denied, Dialect
from hubgate.proxy.http.client_address import ClientAddresses
from hubgate.proxy.http.request import Headers, RawHead
from hubgate.proxy.upstream import header_filter


@dataclass(init=False, repr=False)
class RequestHead:
    """Made once for all requests of a connection that have the same head."""

    client: str
    request_id: str | None  # the caller's own, where it is sane
    dialect: Dialect
    route: Route | Denied
    presented: Headers  # what can carry a credential, in plain: only to see whether it is the same
    credential: Credential | Denied
    passed: str  # the lines of the headers that go to the engine as they came
    admitted: bool  # whether a request with it was let in

    def __init__(
        self, head: RawHead, before: "RequestHead | None", clients: ClientAddresses, advice: str
    ) -> None:
        """`before` is that of the connection's last head, which nearly always had the same credential."""
        self.client = clients.address(head.peer, head.all("x-forwarded-for"))
        self.request_id = sane_id(head.header("x-request-id"))
        self.route = route = endpoints.route(head.method, head.target)
        self.dialect = endpoints.dialect(head.target) if isinstance(route, Denied) else route.endpoint.dialect
        self.presented = presented = head.credentials
        if before is not None and before.presented == presented and before.dialect == self.dialect:
            self.credential = before.credential
        else:
            self.credential = bearer.parse(presented, self.dialect, advice)
        self.passed = header_filter.passed(head.headers)
        self.admitted = False


def parse_head(head: RawHead, clients: ClientAddresses, advice: str) -> RequestHead:
    """That of a head: the one that was made for it before, if it came before."""
    noted = head.noted
    if isinstance(noted, RequestHead):
        return noted
    before = head.before if isinstance(head.before, RequestHead) else None
    head.noted = made = RequestHead(head, before, clients, advice)
    head.before = None
    return made
