"""What the head of a request says by itself, whoever is known and whatever is loaded."""

from dataclasses import dataclass

from proxy import endpoints
from proxy.auth import bearer
from proxy.auth.bearer import Credential
from proxy.clients import Clients
from proxy.endpoints import Route
from proxy.errors import Denied, Dialect
from proxy.exchange import sane_id
from proxy.http.inbound import Head
from proxy.upstream import headers


@dataclass(init=False)
class Opening:
    """Made once for all requests of a connection that have the same head."""

    client: str
    request_id: str | None  # the caller's own, where it is sane
    dialect: Dialect
    route: Route | Denied
    credential: Credential | Denied
    passed: str  # the lines of the headers that go to the engine as they came

    def __init__(self, head: Head, clients: Clients, advice: str) -> None:
        self.client = clients.address(head.peer, head.all("x-forwarded-for"))
        self.request_id = sane_id(head.header("x-request-id"))
        self.route = route = endpoints.route(head.method, head.target)
        self.dialect = endpoints.dialect(head.target) if isinstance(route, Denied) else route.endpoint.dialect
        self.credential = bearer.parse(head.credentials, self.dialect, advice)
        self.passed = headers.passed(head.headers)


def of(head: Head, clients: Clients, advice: str) -> Opening:
    """That of a head: the one that was made for it before, if it came before."""
    noted = head.noted
    if isinstance(noted, Opening):
        return noted
    head.noted = made = Opening(head, clients, advice)
    return made
