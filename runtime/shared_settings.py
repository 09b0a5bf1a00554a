"""What the configurations of both programs have in common: sections, and checks of their values."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, HttpUrl

from hubgate.runtime.config import Section
from hubgate.runtime.log import Level
from hubgate.wire.repo import InvalidRepoError, RepoRef

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


Url = Annotated[str, AfterValidator(_check_url)]
RepoText = Annotated[str, AfterValidator(check_repo)]  # org/name[@revision]
# A backend's name, which is the audience of what is sealed for it; a local key's name.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class Log(Section):
    """The operator's log on standard error."""

    level: Level = "info"
    format: Literal["json", "console"] = "json"
