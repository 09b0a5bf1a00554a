"""Hears every request of a demo Hub, headers and all; and may answer in its place."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from unittest.mock import patch

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from hubgate.demo import answers, hub
from hubgate.demo.log import RequestLog
from hubgate.demo.state import HubState

LIBRARY = "hf_hub/"  # huggingface_hub's own User-Agent: the backend's downloads


@dataclass(frozen=True, slots=True)
class Heard:
    """One request as it came; names of headers in lower case."""

    origin: str  # hub or files
    path: str
    headers: dict[str, str]

    @property
    def token(self) -> str:
        """What stands behind `Bearer`; "" if nothing."""
        return self.headers.get("authorization", "").partition(" ")[2]

    @property
    def download(self) -> bool:
        """Whether the backend asked, and not the proxy."""
        return LIBRARY in self.headers.get("user-agent", "")


@dataclass(slots=True)
class Recorder:
    """`instead` answers in the Hub's place unless it gives `None`; `cookies` gives each caller one."""

    heard: list[Heard] = field(default_factory=list)
    instead: Callable[[Heard], web.Response | None] = lambda _: None
    cookies: bool = False

    def of(self, *, download: bool) -> list[Heard]:
        """What the backend asked, or the proxy."""
        return [one for one in self.heard if one.download is download]

    @contextmanager
    def listening(self) -> Iterator["Recorder"]:
        """Hear every demo Hub that is started meanwhile."""

        def make(state: HubState, log: RequestLog, origin: str) -> Middleware:
            inner = answers.middleware(state, log, origin)

            @web.middleware
            async def around(request: web.Request, handler: Handler) -> web.StreamResponse:
                headers = {name.lower(): value for name, value in request.headers.items()}
                one = Heard(origin, request.rel_url.raw_path, headers)
                self.heard.append(one)
                answer = self.instead(one) or await inner(request, handler)
                if self.cookies and (user := state.accounts.whose(one.token).user):
                    answer.set_cookie("session", user)
                return answer

            return around

        with patch.object(hub, "middleware", make):
            yield self
