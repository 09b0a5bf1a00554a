"""What the Hub can say: the parts of its answers that decisions rest on, as values."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec

from hubgate.proxy.errors import Denied
from hubgate.proxy.frozen_struct import FrozenStruct
from hubgate.wire.json_bounds import is_excessive
from hubgate.wire.repo import RepoRef

MAX_NAME: Final = 1_000  # characters of anything that has a name
_PAGES: Final = ("text/html", "application/xhtml+xml")
_OK: Final = b"OK"  # what some servers call HTML for want of another type

# What is kept of an answer, in caches, the audit and messages, is as long as this at most.
Name = Annotated[str, msgspec.Meta(max_length=MAX_NAME)]


class FineGrained(msgspec.Struct):
    """What a fine-grained token may do. A list that is missing is not an empty one."""

    scoped: list[dict[str, Any]] | None = None
    global_: list[Name] | None = msgspec.field(name="global", default=None)


class AccessToken(msgspec.Struct, rename="camel"):
    display_name: Name = ""
    role: Name = ""
    created_at: Name | None = None
    fine_grained: FineGrained | None = None


class Auth(msgspec.Struct, rename="camel"):
    type: Name = ""
    access_token: AccessToken | None = None
    expires_at: Name | None = None


class Org(msgspec.Struct):
    name: Name
    id: Name = ""  # "" where the Hub gives none


class WhoAmI(msgspec.Struct):
    """The parts of `/api/whoami-v2` that decisions rest on."""

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME)]  # an empty one would be everybody
    name: Name
    type: Name = ""
    orgs: list[Org] = []
    auth: Auth = msgspec.field(default_factory=Auth)


class Sibling(msgspec.Struct):
    rfilename: str


class ModelInfo(msgspec.Struct):
    id: Name
    sha: Name
    siblings: list[Sibling] = []


class Commit(msgspec.Struct):
    id: Name


class Ref(msgspec.Struct, rename="camel"):
    name: Name
    target_commit: Name


class Refs(msgspec.Struct):
    """Branches and tags of a repo, and the commits they point to."""

    branches: list[Ref] = []
    tags: list[Ref] = []


class Allowed(FrozenStruct):
    """The Hub lets this token read the repo."""


class Moved(FrozenStruct):
    """The repo was renamed; nothing is decided yet for its new name."""

    target: RepoRef


class Snapshot(FrozenStruct):
    """What a repo is at one commit: an adapter has the base that its config names, if any."""

    repo: RepoRef  # pinned
    adapter: bool
    base: str = ""


class HubResponse(FrozenStruct):
    """One answer, read to its end unless it is `cut`: then it is longer than what may be read of it."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    cut: bool = False

    @property
    def redirects(self) -> bool:
        return self.status in (301, 302, 307, 308)

    @property
    def is_page(self) -> bool:
        """Whether it is for a browser, and so from something in between: upkeep, a firewall, a portal.

        The Hub's API has no pages. What it says in a header of its own is its word, whatever is below it;
        and where a redirect leads says whether it is followed.
        """
        if self.redirects or "X-Error-Code" in self.headers or "X-Error-Message" in self.headers:
            return False
        kind = self.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        return kind in _PAGES and self.body.strip() != _OK

    @property
    def opens(self) -> bool:
        """Whether an answer that is read by its status alone is a yes of the Hub's: 200, and no other's text.

        What the Hub writes below its 200 is not documented, and its own client does not read it. So only
        what cannot be the Hub's is refused: markup, an error, and more than anybody would say.
        """
        if self.status != 200 or self.cut or is_excessive(self.body):
            return False
        return not self.body.lstrip().startswith(b"<") and self._error() is None

    @property
    def reason(self) -> str:
        """The Hub's own words, from the header that its client reads, else from the body."""
        text = self.headers.get("X-Error-Message", "") or str(self._error() or "")
        return "".join(c for c in text[:300] if c.isprintable())

    def decode(self, kind: Any) -> Any:
        """The body as this type, or an outage: nonsense is no denial."""
        if self.cut or is_excessive(self.body):
            return unavailable()
        try:
            return msgspec.json.decode(self.body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return unavailable()

    def _error(self) -> object:
        """What a JSON object in the body gives as its error; `None` if that is nothing."""
        body = self.decode(dict[str, Any])
        return None if isinstance(body, Denied) else body.get("error")


def unavailable(retry_after: float = 5, *, own: bool = False) -> Denied:
    """The Hub gives no answer for so many seconds: never a no, and kept by nobody.

    It may be that it listens to this account no more: an outage for its `own` tokens alone.
    """
    return Denied(
        "hub_unavailable",
        "The Hub cannot be asked right now, so access cannot be checked.",
        retry_after=max(1, retry_after),
        own=own,
    )
