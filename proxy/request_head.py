"""What the head of a request says by itself, whoever is known and whatever is loaded."""

from dataclasses import dataclass

from hubgate.proxy import endpoints
from hubgate.proxy.auth import bearer
from hubgate.proxy.auth.bearer import Credential
from hubgate.proxy.context import sane_id
from hubgate.proxy.endpoints import Route
from hubgate.proxy.errors import Denied, Dialect
from hubgate.proxy.http.client_address import ClientAddresses
from hubgate.proxy.http.cors import Cors
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
    cors: str  # the lines that let a browser's script read the answer
    preflight: bool  # whether a browser asks if its script may send a request
    admitted: bool  # whether a request with it was let in

    def __init__(
        self,
        head: RawHead,
        before: "RequestHead | None",
        clients: ClientAddresses,
        advice: str,
        cors: Cors | None = None,
    ) -> None:
        """`before` is that of the connection's last head, which nearly always had the same credential."""
        self.client = clients.address(head.peer, head.all("x-forwarded-for"))
        self.request_id = sane_id(head.header("x-request-id"))
        self.route = route = endpoints.route(head.method, head.target, head.header("host") or "")
        self.dialect = endpoints.dialect(head.target) if isinstance(route, Denied) else route.endpoint.dialect
        self.presented = presented = head.credentials
        if before is not None and before.presented == presented:
            self.credential = before.credential
        else:
            self.credential = bearer.parse(presented, advice)
        self.passed = header_filter.passed(head.headers)
        self.admitted = False
        self.cors = ""
        self.preflight = False
        if cors is not None:
            origin = head.header("origin")
            self.cors = cors.lines(origin)
            known = not isinstance(route, Denied) or route.code == "method_not_allowed"
            self.preflight = head.method == "OPTIONS" and known and cors.allows(origin)


def parse_head(head: RawHead, clients: ClientAddresses, advice: str, cors: Cors | None = None) -> RequestHead:
    """That of a head: the one that was made for it before, if it came before."""
    noted = head.noted
    if isinstance(noted, RequestHead):
        return noted
    before = head.before if isinstance(head.before, RequestHead) else None
    head.noted = made = RequestHead(head, before, clients, advice, cors)
    head.before = None
    return made
