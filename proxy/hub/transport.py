"""Asks the Hub one question at a time: with the caller's token, within bounds, obeying the Hub.

Its own client because huggingface_hub's has no timeout, one cookie jar for everybody and falls back
to the process's token. Redirects are not followed: they would carry the caller's token elsewhere.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final, Literal, get_args
from urllib.parse import urljoin, urlsplit

import aiohttp
import structlog
from yarl import URL

from hubgate.proxy.errors import Denied
from hubgate.proxy.hub.breaker import Breaker, Why
from hubgate.proxy.hub.cooldown import Cooldown
from hubgate.proxy.hub.fair_turns import FairTurns
from hubgate.proxy.hub.schemas import HubResponse, unavailable
from hubgate.proxy.metrics.registry import Metrics
from hubgate.wire.secret import Secret

MAX_ANSWER: Final = 4 * 1024 * 1024  # bytes; the file list of a very large repo is about 1 MiB

Call = Literal["whoami", "auth-check", "write-check", "revision", "refs", "commits", "adapter-config"]

_WALKS: Final = ("refs", "commits")
PATIENCE: Final = 5.0  # seconds

SEVERAL: Final = 3  # tokens in a row that are told 429 by whoami, until it is taken for the address' limit
LONGEST_PROBING: Final = 10.0  # seconds between two questions that find out whether it still is

_WHOAMI: Final = b"whoami "
_ADDRESS: Final = b""  # no token's digest

log = structlog.get_logger("hub")


class HubTransport:
    """One Hub. Each kind of question has a breaker of its own, since they can fail apart."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        metrics: Metrics,
        clock: Callable[[], float],
        digest_key: bytes,
        *,
        now: Callable[[], float] = time.time,
        turns: FairTurns | None = None,
        patience: float = PATIENCE,
    ) -> None:
        """`patience` is for how many seconds a question waits for its turn."""
        self.url = url
        self._turns = FairTurns() if turns is None else turns
        self._patience = patience
        self._session = session
        self._metrics = metrics
        self._digest_key = digest_key
        self._cooldown = Cooldown(clock, now)
        self._breakers: dict[Call, Breaker] = {
            call: Breaker(clock, self._log_transition(call)) for call in get_args(Call)
        }
        self._address = Breaker(clock, _log_limit, threshold=SEVERAL, longest_pause=LONGEST_PROBING)
        metrics.hub_up.set_function(self._up)
        metrics.hub_questions_waiting.set_function(self._turns.__len__)

    async def ask(
        self, call: Call, path: str, token: Secret, most: int = MAX_ANSWER, *, who: str = ""
    ) -> HubResponse | Denied:
        """GET `path`, and read `most` bytes of what comes. An answer of another's is `hub_unavailable`.

        So are an outage, a silence that the Hub asked for, and a turn of `who` that does not come.
        """
        # The Hub counts whoami apart from the rest (docs/hub.md): a silence is about one of the two.
        mine = (_WHOAMI if call == "whoami" else b"") + token.digest(self._digest_key)
        if wait := self._cooldown.wait(mine):
            return unavailable(wait, own=True)
        if call == "whoami":
            answer = await self._for_address(call, path, token, most, who)
        else:
            answer = await self._question(call, path, token, most, who)
        if isinstance(answer, HubResponse) and answer.status == 429:
            return unavailable(self._cooldown.keep(mine, answer.headers), own=True)
        return answer

    async def _for_address(
        self, call: Call, path: str, token: Secret, most: int, who: str
    ) -> HubResponse | Denied:
        """A question that the Hub limits per address, which all callers of this proxy share.

        A 429 does not say whose limit it was. It silences its own token; where several tokens in a row are
        told so, and none is answered in between, it is the address: then one token at a time finds out
        whether it still is, ever more seldom, and everybody else is told to come again.
        """
        leave = self._address.begin()
        if isinstance(leave, float):
            return unavailable(max(leave, self._cooldown.wait(_ADDRESS)))
        answered: bool | None = None
        try:
            answer = await self._question(call, path, token, most, who)
            if isinstance(answer, HubResponse):
                answered = answer.status != 429
                if not answered:
                    self._cooldown.keep(_ADDRESS, answer.headers)
        finally:
            self._address.end(leave, answered=answered)
        return answer

    async def _question(
        self, call: Call, path: str, token: Secret, most: int, who: str
    ) -> HubResponse | Denied:
        """Ask, if the Hub is believed to be there, when it is this asker's turn."""
        breaker = self._breakers[call]
        leave = breaker.begin()
        if isinstance(leave, float):
            return unavailable(leave)
        answered: bool | None = None
        try:
            answer = await self._in_turn(call, path, token, most, who)
            if answer is None:
                return unavailable(own=True)
            answered = not isinstance(answer, Denied) and answer.status < 500
            if isinstance(answer, HubResponse) and answer.is_page and answer.status != 429:
                answered = None  # the Hub was not reached; but one repo's name may be what a firewall minds
        finally:
            breaker.end(leave, answered=answered)
        if isinstance(answer, Denied) or answer.status == 429:
            return answer
        return unavailable() if answer.status >= 500 or answer.is_page else answer

    def same_origin(self, location: str) -> str | None:
        """The path of a link that stays on this Hub, else `None`: a token never leaves it."""
        try:
            target, hub = urlsplit(urljoin(self.url + "/", location)), urlsplit(self.url)
        except ValueError:  # no URL at all, such as http://[
            return None
        if (target.scheme, target.netloc) != (hub.scheme, hub.netloc):
            return None
        path = target.path.removeprefix(hub.path)
        return f"{path}?{target.query}" if target.query else path

    async def _in_turn(
        self, call: Call, path: str, token: Secret, most: int, who: str
    ) -> HubResponse | Denied | None:
        """Ask when it is this asker's turn; `None` where that does not come in time, which says nothing."""
        try:
            async with asyncio.timeout(self._patience):
                turn = await self._turns.begin(who, walk=call in _WALKS)
        except TimeoutError:
            return None
        try:
            return await self._get(call, path, token, most)
        finally:
            self._turns.end(turn)

    async def _get(self, call: Call, path: str, token: Secret, most: int) -> HubResponse | Denied:
        started = time.perf_counter()
        status = "error"
        try:
            url = URL(self.url + path, encoded=True)
            headers = {"Authorization": f"Bearer {token.reveal()}", "Accept-Encoding": "identity"}
            async with self._session.get(url, headers=headers, allow_redirects=False) as response:
                status = str(response.status)
                if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                    return unavailable()  # not asked for, and a few bytes of it may be a million
                body, cut = await _read(response, most)
                return HubResponse(response.status, response.headers, body, cut)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            # The exception may hold the request, so its text goes nowhere.
            return unavailable()
        finally:
            self._metrics.hub(call, status, time.perf_counter() - started)

    def _log_transition(self, call: Call) -> Callable[[bool, Why], None]:
        def log_it(opened: bool, why: Why) -> None:
            if opened:
                log.warning("the Hub is not asked for now", call=call)
            else:
                log.info("the Hub is asked again", call=call, why=why)

        return log_it

    def _up(self) -> float:
        return float(not any(breaker.is_open() for breaker in self._breakers.values()))


def _log_limit(opened: bool, why: Why) -> None:
    if opened:
        log.warning("the Hub limits whoami for this proxy's address: callers who are not known wait")
    else:
        log.info("the Hub answers whoami again", why=why)


async def _read(response: aiohttp.ClientResponse, most: int) -> tuple[bytes, bool]:
    """The body, and whether it was longer than `most` bytes: then the rest is not even waited for."""
    parts: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > most:
            return b"", True
        parts.append(chunk)
    return b"".join(parts), False
