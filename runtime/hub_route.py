"""How both programs reach the Hub from behind a company's walls: by an HTTP proxy, and with its own CA.

`hub.proxy` is asked to CONNECT (RFC 9110, section 9.3.6), and sees names and no tokens; a Hub without TLS is
asked directly. Where it is not set, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` of the environment count, as
they do for huggingface_hub. `hub.ca_file` stands in for the system's CAs, as `SSL_CERT_FILE` does.
"""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from hubgate.runtime.shared_settings import HubRoute
from hubgate.wire.file_faults import unreadable
from hubgate.wire.secret import Secret

_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
_CAS = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@dataclass(frozen=True, slots=True)
class Route:
    """`proxy` may hold a password; `context` is `None` where the system's CAs are trusted."""

    proxy: Secret | None = None
    context: ssl.SSLContext | None = None


def find(url: str, route: HubRoute, faults: list[str]) -> Route:
    """The way to the Hub at `url`, by the settings and this process' environment; what is wrong is added."""
    return Route(_proxy(url, route.proxy, faults), _context(route.ca_file, faults))


def child_environment(environ: Mapping[str, str], route: HubRoute) -> dict[str, str]:
    """What has a child's HTTP client go the same way."""
    kept = dict(environ)
    if route.proxy is not None:
        kept = {name: value for name, value in kept.items() if name.upper() not in _PROXIES}
        kept["HTTPS_PROXY"] = route.proxy
    if route.ca_file is not None:
        kept = {name: value for name, value in kept.items() if name not in _CAS}
        kept["SSL_CERT_FILE"] = str(route.ca_file.absolute())
    return kept


def _proxy(url: str, configured: str | None, faults: list[str]) -> Secret | None:
    hub = urlsplit(url)
    if hub.scheme != "https":
        if configured is not None:
            faults.append(f"hub.proxy: would be shown tokens, since there is no TLS to {url}; remove it")
        return None
    if configured is not None:
        return Secret(configured)
    proxies = getproxies_environment()
    text = proxies.get("https") or proxies.get("all") or ""
    if not text or proxy_bypass(hub.netloc) or _is_here(hub.hostname or ""):
        return None
    text = text if "://" in text else f"http://{text}"
    if not _is_plain(text):
        # It may hold a password, so that it is not repeated.
        faults.append("HTTPS_PROXY: must be http://host:port; or set NO_PROXY, or hub.proxy")
        return None
    return Secret(text)


def _is_plain(text: str) -> bool:
    try:
        proxy = urlsplit(text)
        return proxy.scheme == "http" and bool(proxy.hostname) and proxy.port != 0 and proxy.path in {"", "/"}
    except ValueError:
        return False


def _is_here(host: str) -> bool:
    return host in {"localhost", "127.0.0.1", "::1"}


def _context(ca_file: Path | None, faults: list[str]) -> ssl.SSLContext | None:
    if ca_file is None:
        return None
    try:
        ca_file.stat()
        return ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError:
        faults.append(f"hub.ca_file: {ca_file}: holds no certificates in PEM")
    except OSError as error:
        faults.append(f"hub.ca_file: {unreadable(ca_file, error)}")
    return None
