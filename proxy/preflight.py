"""What has to be right before anything starts: the files that the settings name, and the build."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aiohttp import http_parser

from hubgate.proxy import endpoints
from hubgate.proxy.auth import name_book
from hubgate.proxy.auth.identity import LocalKey
from hubgate.proxy.auth.name_book import NameBookError
from hubgate.proxy.http.tls import Certificate
from hubgate.proxy.settings import (
    AnyUpstream,
    DnsUpstreams,
    KeyTokenFile,
    Limits,
    ProxySettings,
    Tls,
    Upstream,
    parse_storage,
)
from hubgate.proxy.upstream.discovery import PublicKeys, load_public_keys
from hubgate.runtime import hub_route, service_token
from hubgate.runtime.config import ConfigError
from hubgate.runtime.hub_route import Route
from hubgate.runtime.operator_key import is_loopback, load_key
from hubgate.runtime.service_token import ServiceToken, TokenFile
from hubgate.runtime.tls import Party, Paths, TlsFiles
from hubgate.runtime.watch import Watched
from hubgate.wire.file_faults import read_line
from hubgate.wire.keyfile import KeyFile
from hubgate.wire.keys import BackendPublic, KeyFileError, ProxyKeys, load_backend_public, load_proxy_keys
from hubgate.wire.secret import Secret


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found in the files."""

    keys: KeyFile[ProxyKeys]  # our own
    backends: Mapping[str, KeyFile[BackendPublic]]
    upstream_tls: Mapping[str, TlsFiles]  # of the backends that are spoken to with TLS, by their names
    public_keys: Mapping[DnsUpstreams, PublicKeys]
    certificate: Certificate | None  # of the public port
    local: Mapping[bytes, LocalKey]
    hub: Route
    limits_storage: Secret
    tokens: Mapping[str, ServiceToken]  # behind local keys, by their names in the settings or the environment
    admin_key: KeyFile[Secret] | None  # of commands on the admin port
    metrics_key: KeyFile[Secret] | None
    owners: Mapping[str, str]  # whose each kept name is, see `name_book`

    @property
    def files(self) -> Mapping[str, Watched]:
        """Those that are read again when they change, by their names in the settings."""
        files: dict[str, Watched] = {"seal.key_file": self.keys, **self.tokens}
        for index, file in enumerate(self.backends.values()):
            files[f"upstreams.{index}.public_key_file"] = file
        for name, tls in self.upstream_tls.items():
            files[f"upstreams.{list(self.backends).index(name)}.tls"] = tls
        for entry, keys in self.public_keys.items():
            files[f"upstreams.{entry.dns}.public_keys"] = keys
        if self.admin_key is not None:
            files["admin.key_file"] = self.admin_key
        if self.metrics_key is not None:
            files["admin.metrics_key_file"] = self.metrics_key
        return files if self.certificate is None else {**files, "listen.tls": self.certificate}


def check(settings: ProxySettings) -> Checked:
    """Read every file that the settings name. Raises `ConfigError` with all faults at once."""
    faults: list[str] = []
    keys: KeyFile[ProxyKeys] | None = None
    try:
        keys = KeyFile(settings.seal.key_file, load_proxy_keys, time.monotonic)
    except KeyFileError as error:
        faults.append(f"seal.key_file: {error}")
    backends = read_backends(settings.upstreams, {}, faults)
    upstream_tls = read_upstream_tls(settings.upstreams, faults)
    public_keys = read_public_keys(settings.upstreams, {}, faults)
    certificate = _certificate(settings.listen.tls, faults)
    faults += endpoints.unknown(settings.request.extra_fields)
    local, tokens = _local_keys(settings, faults)
    hub = hub_route.find(settings.hub.url, settings.hub, faults)
    storage = _limits_storage(settings.limits, faults)
    admin_key, metrics_key = _admin_keys(settings, faults)
    owners = _owners(settings.audit.path, faults)
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        # The pure-Python parser is slow and has accepted what the C one refuses (CVE-2023-47641).
        faults.append("aiohttp runs without its C extensions; unset AIOHTTP_NO_EXTENSIONS")
    if faults or keys is None:
        raise ConfigError(faults)
    return Checked(
        keys,
        backends,
        upstream_tls,
        public_keys,
        certificate,
        local,
        hub,
        storage,
        tokens,
        admin_key,
        metrics_key,
        owners,
    )


def read_backends(
    upstreams: Sequence[AnyUpstream], known: Mapping[str, KeyFile[BackendPublic]], faults: list[str]
) -> dict[str, KeyFile[BackendPublic]]:
    """The public halves of these backends, by their names; of those that are known, as they are."""
    backends: dict[str, KeyFile[BackendPublic]] = {}
    for index, upstream in enumerate(upstreams):
        if not isinstance(upstream, Upstream):
            continue
        try:
            backends[upstream.name] = known.get(upstream.name) or KeyFile(
                upstream.public_key_file, load_backend_public, time.monotonic
            )
        except KeyFileError as error:
            faults.append(f"upstreams.{index}.public_key_file: {error}")
    return backends


def read_upstream_tls(upstreams: Sequence[AnyUpstream], faults: list[str]) -> dict[str, TlsFiles]:
    """What is shown to those of these backends that are spoken to with TLS, by their names."""
    found: dict[str, TlsFiles] = {}
    for index, upstream in enumerate(upstreams):
        if not isinstance(upstream, Upstream) or upstream.tls is None:
            continue
        tls = upstream.tls
        paths = Paths((tls.ca_file,), tls.cert_file, tls.key_file)
        try:
            found[upstream.name] = TlsFiles(paths, Party("client", "proxy", ("backend", "engine")))
        except KeyFileError as error:
            faults.append(f"upstreams.{index}.tls: {error}")
    return found


def read_public_keys(
    upstreams: Sequence[AnyUpstream], known: Mapping[DnsUpstreams, PublicKeys], faults: list[str]
) -> dict[DnsUpstreams, PublicKeys]:
    """The keys of those that are found by DNS; of those that are known, as they are."""
    found: dict[DnsUpstreams, PublicKeys] = {}
    for index, entry in enumerate(upstreams):
        if not isinstance(entry, DnsUpstreams):
            continue
        try:
            found[entry] = known.get(entry) or KeyFile(entry.public_keys, load_public_keys, time.monotonic)
        except KeyFileError as error:
            faults.append(f"upstreams.{index}.public_keys: {error}")
    return found


def _certificate(tls: Tls | None, faults: list[str]) -> Certificate | None:
    if tls is None:
        return None
    try:
        return Certificate(tls.cert_file, tls.key_file)
    except KeyFileError as error:
        faults.append(f"listen.tls: {error}")
        return None


def _admin_keys(settings: ProxySettings, faults: list[str]) -> Sequence[KeyFile[Secret] | None]:
    found: list[KeyFile[Secret] | None] = []
    admin = settings.admin
    for name, path in (("key_file", admin.key_file), ("metrics_key_file", admin.metrics_key_file)):
        try:
            found.append(None if path is None else KeyFile(path, load_key, time.monotonic))
        except KeyFileError as error:
            faults.append(f"admin.{name}: {error}")
            found.append(None)
    guarded = is_loopback(admin.host) or admin.key_file or admin.metrics_key_file
    if settings.metrics.per_user and not guarded:
        shown = f"would show names of users to all who reach {admin.host}"
        faults.append(f"metrics.per_user: {shown}; set admin.metrics_key_file, or admin.host: 127.0.0.1")
    return found


def _local_keys(
    settings: ProxySettings, faults: list[str]
) -> tuple[dict[bytes, LocalKey], dict[str, ServiceToken]]:
    service = service_token.find(os.environ)
    keys: dict[bytes, LocalKey] = {}
    tokens: dict[str, ServiceToken] = {}
    for index, key in enumerate(settings.keys):
        source = service
        if isinstance(key.token, KeyTokenFile):
            source = TokenFile(key.token.file, f"keys.{index}.token.file")
        if source is None:
            names = ", ".join(service_token.NAMES)
            faults.append(f"keys.{index}.token: no service token is set ({names}, or one of them with _FILE)")
        else:
            tokens[source.name] = source
            keys[bytes.fromhex(key.sha256)] = LocalKey(key.name, key.models, source.read)
    for name, token in tokens.items():
        if token.read() is None:
            faults.append(f"{name}: {token.fault}")
    return keys, tokens


def _limits_storage(limits: Limits, faults: list[str]) -> Secret:
    """Where limits are counted; a file is read once, since a proxy does not change it while it runs."""
    if limits.storage_file is None:
        return limits.storage
    url, fault = read_line(limits.storage_file)
    if not fault:
        try:
            return parse_storage(url)
        except ValueError as error:
            fault = str(error)
    faults.append(f"limits.storage_file: {fault}")
    return limits.storage


def _owners(audit: Path, faults: list[str]) -> Mapping[str, str]:
    path = name_book.beside(audit)
    try:
        return name_book.read(path)
    except NameBookError as error:
        faults.append(f"audit.path: {error}")
    except OSError as error:
        faults.append(f"audit.path: {path}: {error.strerror}")
    return {}
