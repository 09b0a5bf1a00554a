"""What the configurations of both programs have in common: sections, and checks of their values."""

import os
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, HttpUrl

from hubgate.runtime.config import Section
from hubgate.runtime.log import Level
from hubgate.wire.repo import InvalidRepoError, RepoRef

PUBLIC_HUB = "https://huggingface.co"  # huggingface_hub/constants.py

_URL = re.compile(r"https?://[^\s\\@?#/]+(?:/[^\s\\@?#]*)?")


def _check_url(text: str) -> str:
    url = HttpUrl(text)
    # pydantic mends what a browser would: spaces around it, backslashes. The text is used as it stands.
    plain = _URL.fullmatch(text) is not None
    if not plain or url.username or url.password or url.query or url.fragment:
        raise ValueError("must be a plain http(s) URL without credentials or query")
    return text.rstrip("/")


def check_repo(text: str) -> str:
    """The text, if it is `org/name[@revision]`. Raises `ValueError`."""
    try:
        RepoRef.parse(text)
    except InvalidRepoError as error:
        raise ValueError(str(error)) from None
    return text


def check_tls_name(name: str) -> str:
    """The name, if a certificate can be for it (RFC 5280, section 4.2.1.6, `dNSName`). Raises `ValueError`.

    One of digits alone would be taken for an address.
    """
    labels = name.split(".")
    if not all(0 < len(label) < 64 for label in labels) or labels[-1].isdigit():
        raise ValueError(
            f"{name} is no name for a certificate: between its dots there are 1 to 63 characters each, and "
            "what comes last is not a number"
        )
    return name


def _check_proxy(text: str) -> str:
    try:
        proxy = _check_url(text)
    except ValueError:
        why = "must be http://host:port; a user and a password belong into HTTPS_PROXY of the environment"
        raise ValueError(why) from None
    if not proxy.startswith("http://") or proxy.count("/") > 2:
        raise ValueError("must be http://host:port; it is asked to CONNECT, and sees no token")
    return proxy


Url = Annotated[str, AfterValidator(_check_url)]
ProxyUrl = Annotated[str, AfterValidator(_check_proxy)]
RepoText = Annotated[str, AfterValidator(check_repo)]  # org/name[@revision]
# A backend's name, which is the audience of what is sealed for it; a local key's name.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class HubRoute(Section):
    """Where the Hub is, and how it is reached; `endpoint: null` is `HF_ENDPOINT`, or the public Hub."""

    endpoint: Url | None = None
    proxy: ProxyUrl | None = None
    ca_file: Path | None = None

    @property
    def url(self) -> str:
        """The endpoint to ask: configured, else `HF_ENDPOINT`, else the public Hub."""
        return self.endpoint or os.environ.get("HF_ENDPOINT", "").rstrip("/") or PUBLIC_HUB


class Log(Section):
    """The operator's log on standard error."""

    level: Level = "info"
    format: Literal["json", "console"] = "json"
