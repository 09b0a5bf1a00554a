"""The proxy's configuration, `config/proxy.yaml`: every key, its range and its default."""

import re
import socket
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    PlainValidator,
    PositiveFloat,
    PositiveInt,
    Tag,
    field_validator,
    model_validator,
)

from hubgate.runtime.config import Section, Settings
from hubgate.runtime.shared_settings import HubRoute, Log, Name, RepoText, Url, check_repo, check_tls_name
from hubgate.wire.secret import Secret

MEMORY = "memory://"
# The largest bodies that must have room at once: one caller may take half of it (proxy/body/reader.py).
BODIES = 4

Port = Annotated[int, Field(ge=0, le=65535)]
Days = Annotated[int, Field(gt=0)]


def _check_glob(text: str) -> str:
    if text.count("/") != 1 or not text.isascii() or any(c in text for c in "@\\ []"):
        raise ValueError("must be org/name, with * or ? as wildcards")
    return text if any(wildcard in text for wildcard in "*?") else check_repo(text)


# `key:` stands before the name of a local key, and in no name on the Hub.
_ACCOUNT = re.compile(
    r"(?P<alone>(?:key:)?[A-Za-z0-9._-]+)|(?:id:|(?P<name>[A-Za-z0-9._-]+)=)(?P<id>[0-9a-f]{24})"
)


def read_account(text: str) -> tuple[str, str]:
    """The name and the Hub's id in `name`, `name=id` or `id:id`; "" for what is not there.

    Raises `ValueError`.
    """
    match = _ACCOUNT.fullmatch(text)
    if match is None:
        raise ValueError("must be a name, name=ID or id:ID, with the Hub's id of 24 hexadecimal digits")
    return match["alone"] or match["name"] or "", match["id"] or ""


def _check_account(text: str) -> str:
    read_account(text)
    return text


ModelGlob = Annotated[str, AfterValidator(_check_glob)]
HubAccount = Annotated[str, AfterValidator(_check_account)]


class Tls(Section):
    """A certificate and its key, PEM."""

    cert_file: Path
    key_file: Path


# As browsers write it: scheme, host, and the port where it is not the scheme's own (RFC 6454, section 6.2).
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[a-z0-9.-]+(:[0-9]{1,5})?", re.ASCII)
_OWN_PORTS = (("http://", ":80"), ("https://", ":443"))


def _check_origin(text: str) -> str:
    redundant = any(text.startswith(scheme) and text.endswith(port) for scheme, port in _OWN_PORTS)
    if text != "*" and (redundant or _ORIGIN.fullmatch(text) is None):
        raise ValueError(
            "must be * or an origin as browsers send it: https://app.example.com, without a path"
        )
    return text


Origin = Annotated[str, AfterValidator(_check_origin)]


class Listen(Section):
    host: str = "0.0.0.0"
    port: Port = 8080
    tls: Tls | None = None
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    cors: tuple[Origin, ...] = ()

    @model_validator(mode="after")
    def _any_alone(self) -> Self:
        if "*" in self.cors and len(self.cors) > 1:
            raise ValueError("cors: * allows every origin; remove it or the others")
        return self


class Admin(Section):
    host: str = "127.0.0.1"
    port: Port = 8081
    key_file: Path | None = None
    metrics_key_file: Path | None = None


class Hub(HubRoute):
    """Where the Hub is, and for how many seconds its answers hold."""

    timeout: PositiveFloat = 5
    identity_ttl: PositiveFloat = 300
    access_ttl: PositiveFloat = 60
    denial_ttl: PositiveFloat = 10
    revision_ttl: PositiveFloat = 3600
    refused_tokens_per_minute: PositiveInt = 60


class Block(Section):
    """Who is locked out, whatever else is said; fingerprints are those of the audit."""

    users: frozenset[HubAccount] = frozenset()
    orgs: frozenset[HubAccount] = frozenset()
    fingerprints: frozenset[str] = frozenset()


class Callers(Section):
    """Who may call at all: names or ids as whoami gives them, see `read_account`."""

    users: frozenset[HubAccount] = frozenset()
    orgs: frozenset[HubAccount] = frozenset()
    anyone: bool = False
    block: Block = Block()

    @model_validator(mode="after")
    def _someone(self) -> Self:
        if not (self.users or self.orgs or self.anyone):
            raise ValueError("names nobody: list users or orgs, or say `anyone: true`")
        if self.anyone and (self.users or self.orgs):
            raise ValueError("`anyone: true` makes users and orgs meaningless; remove one")
        return self


class Tokens(Section):
    """Which tokens are good enough."""

    roles: frozenset[Literal["read", "write", "god", "fineGrained"]] = frozenset({"read", "fineGrained"})
    max_age_days: Days = 90
    when_old: Literal["deny", "warn"] = "deny"
    oauth: Literal["deny", "allow"] = "deny"
    extra_permissions: frozenset[Annotated[str, Field(pattern=r"^[a-z]+(\.[A-Za-z]+)+$")]] = frozenset()

    @field_validator("roles")
    @classmethod
    def _some_role(cls, roles: frozenset[str]) -> frozenset[str]:
        if not roles:
            raise ValueError("names no role, so no token could pass")
        return roles


class KeyTokenFile(Section):
    file: Path


Weight = Annotated[int, Field(ge=1, le=10_000)]  # as `cpu.weight` of a cgroup, where 100 is usual


class Override(Section):
    """Limits of one user, organization or key that differ from everybody's; `None`: this one does not."""

    requests_per_minute: PositiveInt | None = None
    tokens_per_minute: PositiveInt | None = None
    concurrent_requests: PositiveInt | None = None
    cold_loads_per_hour: PositiveInt | None = None
    weight: Weight | None = None

    @model_validator(mode="after")
    def _something(self) -> Self:
        if all(value is None for value in self.model_dump().values()):
            raise ValueError("overrides no limit; name one, or remove it")
        return self


class OrganizationLimits(Section):
    """What all members of an organization may use together; `None`: no such limit."""

    requests_per_minute: PositiveInt | None = None
    tokens_per_minute: PositiveInt | None = None
    concurrent_requests: PositiveInt | None = None
    cold_loads_per_hour: PositiveInt | None = None

    @model_validator(mode="after")
    def _something(self) -> Self:
        if all(value is None for value in self.model_dump().values()):
            raise ValueError("limits nothing; name one limit, or remove it")
        return self


class LocalKey(Section):
    """An API key of this proxy's own, for a caller without a Hub account."""

    name: Name
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    token: Literal["service"] | KeyTokenFile
    models: Annotated[tuple[ModelGlob, ...], Field(min_length=1)]
    limits: Override | None = None


class Models(Section):
    """Which repositories may be served, whatever the caller's own access is."""

    allow: Annotated[tuple[ModelGlob, ...], Field(min_length=1)]
    deny: tuple[ModelGlob, ...] = ()
    aliases: dict[str, RepoText] = Field(default_factory=dict)
    base_map: dict[str, RepoText] = Field(default_factory=dict)
    revisions: frozenset[Literal["main", "tags", "branches", "any"]] = frozenset({"main"})
    require_base_access: bool = True


class Overrides(Section):
    """By the name that whoami gives, or the id, as in `callers`; case counts."""

    users: dict[HubAccount, Override] = Field(default_factory=dict)
    orgs: dict[HubAccount, Override] = Field(default_factory=dict)


def parse_storage(text: object) -> Secret:
    """Check where limits are counted. Raises `ValueError`, which repeats nothing: a password may be in it."""
    if not isinstance(text, str) or not (text == MEMORY or _is_redis(text)):
        raise ValueError(f"must be {MEMORY}, or redis://host:port/number (rediss:// for TLS)")
    return Secret(text)


def _is_redis(text: str) -> bool:
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        return False
    plain = not (url.query or url.fragment)  # they would set the client's own options, a password too
    where = bool(url.hostname) and port != 0 and re.fullmatch(r"/?[0-9]*", url.path) is not None
    return url.scheme in ("redis", "rediss") and where and plain


class Limits(Section):
    """What each caller may use, and each organization all in all."""

    requests_per_minute: PositiveInt = 600
    tokens_per_minute: PositiveInt = 1_000_000
    concurrent_requests: PositiveInt = 64
    cold_loads_per_hour: PositiveInt = 30
    weight: Weight = 100
    queue_seconds: PositiveFloat = 60
    refusals_per_minute: PositiveInt = 120  # of one client (an IPv4 address, an IPv6 /64)
    overrides: Overrides = Overrides()
    organizations: dict[HubAccount, OrganizationLimits] = Field(default_factory=dict)
    storage: Annotated[Secret, PlainValidator(parse_storage)] = Field(default_factory=lambda: Secret(MEMORY))
    storage_file: Path | None = None

    @model_validator(mode="after")
    def _one_storage(self) -> Self:
        if self.storage_file is not None and self.storage != Secret(MEMORY):
            raise ValueError("names a storage and a storage_file; remove one")
        return self

    @property
    def users(self) -> frozenset[str]:
        """Entries of users that have numbers of their own."""
        return frozenset(self.overrides.users)

    @property
    def orgs(self) -> frozenset[str]:
        """Entries of organizations whose members have numbers of their own, each or together."""
        return frozenset((*self.overrides.orgs, *self.organizations))


class Request(Section):
    max_body_bytes: PositiveInt = 32 * 1024 * 1024
    max_buffered_bytes: PositiveInt = 512 * 1024 * 1024
    max_n: PositiveInt = 8
    max_batch: PositiveInt = 2048
    max_logprobs: Annotated[int, Field(ge=0)] = 20
    extra_fields: dict[str, frozenset[str]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _room_for_others(self) -> Self:
        if self.max_buffered_bytes < BODIES * self.max_body_bytes:
            raise ValueError(f"max_buffered_bytes must be at least {BODIES} times max_body_bytes")
        return self


class UpstreamTls(Tls):
    """What a proxy shows a backend and its engines, and the authorities whose word counts for theirs, PEM."""

    ca_file: Path


class Upstream(Section):
    """One backend: `name` is its own, the audience of what we seal for it.

    `weight` is that of its share of the load, beside the others'.
    """

    name: Name
    url: Url
    public_key_file: Path
    tls: UpstreamTls | None = None
    weight: Weight = 100

    @model_validator(mode="after")
    def _all_or_nothing(self) -> Self:
        # Control API and engines alike: one without the other would tell prompts, or tokens' grants.
        if self.tls is None and self.url.startswith("https://"):
            raise ValueError("url is https://, so tls must be set: {ca_file, cert_file, key_file}")
        if self.tls is not None:
            if not self.url.startswith("https://"):
                raise ValueError("tls is set, so url must be https://")
            check_tls_name(self.name)
        return self


class DnsUpstreams(Section):
    """Backends at the addresses of a DNS name; each is called what its hello says, see `upstream.discovery`.

    `public_keys` is the public half of all of them, or a folder with one for each.
    """

    dns: Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?\.?$")]
    port: Annotated[int, Field(ge=1, le=65535)] = 8100
    names: Annotated[str, Field(pattern=r"^[A-Za-z0-9*?][A-Za-z0-9._*?-]{0,63}$")]
    public_keys: Path
    weight: Weight = 100


def _kind(entry: object) -> str:
    """In brackets, so that faults do not name it."""
    return (
        "(dns)"
        if isinstance(entry, DnsUpstreams) or (isinstance(entry, dict) and "dns" in entry)
        else "(url)"
    )


AnyUpstream = Annotated[
    Annotated[Upstream, Tag("(url)")] | Annotated[DnsUpstreams, Tag("(dns)")], Discriminator(_kind)
]


class Seal(Section):
    key_file: Path


def _of_this_host(path: Path) -> Path:
    """The path with this host's name in it, where it asks for that: proxies share a folder, and no file."""
    text = str(path).replace("{hostname}", socket.gethostname())
    if "{" in text or "}" in text:
        raise ValueError("may hold {hostname}, and nothing else in braces")
    return Path(text)


class Audit(Section):
    path: Annotated[Path, AfterValidator(_of_this_host)] = Path("audit.jsonl")
    required: bool = True


class ColdStart(Section):
    """Seconds that a caller of a cold model waits, and for how long a load may go on at all."""

    heartbeat_after: PositiveFloat = 5
    plain_wait: PositiveFloat = 300
    timeout: PositiveFloat = 3600


class Timeouts(Section):
    """Seconds, but for `least_rate`: bytes a second of a body that a caller sends, or an answer they take."""

    header: PositiveFloat = 10
    body_idle: PositiveFloat = 15
    connect: PositiveFloat = 5
    first_byte: PositiveFloat = 600
    idle: PositiveFloat = 600
    answer: PositiveFloat = 3600
    least_rate: PositiveFloat = 1024
    drain: PositiveFloat = 600


class Metrics(Section):
    per_user: bool = False


class ProxySettings(Settings):
    listen: Listen = Listen()
    admin: Admin = Admin()
    hub: Hub = Hub()
    callers: Callers
    tokens: Tokens = Tokens()
    keys: tuple[LocalKey, ...] = ()
    models: Models
    limits: Limits = Field(default_factory=Limits)
    request: Request = Request()
    upstreams: Annotated[tuple[AnyUpstream, ...], Field(min_length=1)]
    seal: Seal
    audit: Audit = Audit()
    cold_start: ColdStart = ColdStart()
    timeouts: Timeouts = Timeouts()
    metrics: Metrics = Metrics()
    log: Log = Log()

    @classmethod
    def misplaced(cls, values: Mapping[str, Any]) -> list[str]:
        """Name what must not stand in the file: a password of the limits' storage."""
        limits = values.get("limits")
        storage = limits.get("storage") if isinstance(limits, dict) else None
        if isinstance(storage, str) and "@" in storage:
            why = "holds credentials, which do not belong into this file"
            instead = "name a file with the URL in limits.storage_file, or set HUBGATE_LIMITS__STORAGE"
            return [f"limits.storage: {why}; {instead}"]
        return []

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        faults = [*self._doubled("upstreams", "name"), *self._doubled("keys", "name")]
        faults += self._doubled("keys", "sha256")
        faults += self._two_ids("users") + self._two_ids("orgs")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def _doubled(self, section: str, key: str) -> list[str]:
        values: list[Any] = [getattr(item, key) for item in getattr(self, section) if hasattr(item, key)]
        return [f"{section}: two share one {key}"] if len(set(values)) < len(values) else []

    def _two_ids(self, accounts: Literal["users", "orgs"]) -> list[str]:
        """A name that is written with two ids: alone, it would mean neither."""
        listed: frozenset[str] = getattr(self.callers, accounts)
        limited: frozenset[str] = getattr(self.limits, accounts)
        written = {read_account(entry) for entry in listed | limited if "=" in entry}
        twice = len({name for name, _ in written}) < len(written)
        places = f"callers.{accounts}, limits.overrides.{accounts}"
        places += ", limits.organizations" if accounts == "orgs" else ""
        return [f"{places}: one name has two ids"] if twice else []
