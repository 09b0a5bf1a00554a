"""What the head of a request says by itself, whoever is known and whatever is loaded."""

from dataclasses import dataclass

from proxy import endpoints
from proxy.auth import bearer
from proxy.auth.bearer import Credential
from proxy.clients import Clients
from proxy.endpoints import Route
from proxy.errors import Denied, Dialect
from proxy.exchange import sane_id
from proxy.http.inbound import Head, Headers
from proxy.upstream import headers


@dataclass(init=False, repr=False)
class Opening:
    """Made once for all requests of a connection that have the same head."""

    client: str
    request_id: str | None  # the caller's own, where it is sane
    dialect: Dialect
    route: Route | Denied
    presented: Headers  # what can carry a credential, in plain: only to see whether it is the same
    credential: Credential | Denied
    passed: str  # the lines of the headers that go to the engine as they came

    def __init__(self, head: Head, before: "Opening | None", clients: Clients, advice: str) -> None:
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
        self.passed = headers.passed(head.headers)


def of(head: Head, clients: Clients, advice: str) -> Opening:
    """That of a head: the one that was made for it before, if it came before."""
    noted = head.noted
    if isinstance(noted, Opening):
        return noted
    before = head.before if isinstance(head.before, Opening) else None
    head.noted = made = Opening(head, before, clients, advice)
    head.before = None
    return made
