"""What the Hub can say: the parts of its answers that decisions rest on, as values."""

from collections.abc import Mapping
from typing import Any

import msgspec

from hubgate.proxy.errors import Denied
from hubgate.proxy.frozen_struct import FrozenStruct
from hubgate.wire.repo import RepoRef


class FineGrained(msgspec.Struct):
    """What a fine-grained token may do. A list that is missing is not an empty one."""

    scoped: list[dict[str, Any]] | None = None
    global_: list[str] | None = msgspec.field(name="global", default=None)


class AccessToken(msgspec.Struct, rename="camel"):
    display_name: str = ""
    role: str = ""
    created_at: str | None = None
    fine_grained: FineGrained | None = None


class Auth(msgspec.Struct, rename="camel"):
    type: str = ""
    access_token: AccessToken | None = None
    expires_at: str | None = None


class Org(msgspec.Struct):
    name: str


class WhoAmI(msgspec.Struct):
    """The parts of `/api/whoami-v2` that decisions rest on."""

    id: str
    name: str
    type: str = ""
    orgs: list[Org] = []
    auth: Auth = msgspec.field(default_factory=Auth)


class Sibling(msgspec.Struct):
    rfilename: str


class ModelInfo(msgspec.Struct):
    id: str
    sha: str
    siblings: list[Sibling] = []


class Commit(msgspec.Struct):
    id: str


class Ref(msgspec.Struct, rename="camel"):
    name: str
    target_commit: str


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
    """One answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def redirects(self) -> bool:
        return self.status in (301, 302, 307, 308)

    @property
    def reason(self) -> str:
        """The Hub's own words, from the header that its client reads, else from the body."""
        text = self.headers.get("X-Error-Message", "")
        if not text:
            try:
                text = str(msgspec.json.decode(self.body, type=dict[str, Any]).get("error", ""))
            except (msgspec.DecodeError, UnicodeDecodeError):
                text = ""
        return "".join(c for c in text[:300] if c.isprintable())

    def decode(self, kind: Any) -> Any:
        """The body as this type, or an outage: nonsense is no denial."""
        try:
            return msgspec.json.decode(self.body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return unavailable()


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
