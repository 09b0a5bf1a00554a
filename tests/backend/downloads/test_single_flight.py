"""Single flight: bytes are shared, decisions are not."""

import asyncio
from contextlib import AbstractContextManager, nullcontext

from hubgate.backend.admission.file_selection import Rejected
from hubgate.backend.downloads.attempt import DownloadRequest, ProgressMeter, Rules
from hubgate.backend.downloads.fetcher import Fetched, Party
from hubgate.backend.downloads.messages import Failure
from hubgate.backend.downloads.single_flight import Interest, SingleFlight
from hubgate.wire.control_api import Download
from hubgate.wire.repo import RepoRef
from hubgate.wire.secret import Secret

REF = RepoRef.parse("alice/lora@" + "a" * 40)
GOT = Fetched(Download(repo=str(REF), kind="adapter", bytes=5, seconds=1.0))
DENIED = Failure(code="denied", message="no")
DOWN = Failure(code="hub_unavailable", message="down")


WANT = DownloadRequest(REF, "adapter", Rules(lambda _: Rejected("?"), lambda _: None))


class FakeFetcher:
    """Answers for each token; waits until it is let go."""

    def __init__(self, answers: dict[str, Fetched | Failure | Exception]) -> None:
        self.answers = answers
        self.tokens: list[str] = []
        self.go = asyncio.Event()
        self.cancelled = 0

    def reconsider(self) -> None:
        pass

    def staging(self) -> AbstractContextManager[None]:
        return nullcontext()

    async def fetch(
        self, want: DownloadRequest, party: Party, meter: ProgressMeter, staging: None
    ) -> Fetched | Failure:
        del want, meter, staging
        token = party.next_token()
        assert token is not None
        self.tokens.append(token.reveal())
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        answer = self.answers[token.reveal()]
        if isinstance(answer, Exception):
            raise answer
        return answer


class Waiting:
    """Flights over a fake fetcher, and a caller for each token."""

    def __init__(self, **answers: Fetched | Failure | Exception) -> None:
        self.fetcher = FakeFetcher(answers)
        self.downloads = SingleFlight(self.fetcher)  # type: ignore[arg-type]
        self.futures = {token: self.join(token) for token in answers}

    def join(self, token: str) -> asyncio.Future[Fetched | Failure | None]:
        return self.downloads.join(WANT, Secret(token), Interest(token))[1]


async def test_one_download_serves_all_and_only_the_leader_fetched_it() -> None:
    """The others' audit says nothing of bytes that they did not cause."""
    waiting = Waiting(a=GOT, b=GOT, c=GOT)
    waiting.fetcher.go.set()
    assert await asyncio.gather(*waiting.futures.values()) == [GOT, None, None]
    assert waiting.fetcher.tokens == ["a"]


async def test_a_denied_leader_is_denied_alone() -> None:
    """The next one's token is tried, and each gets what is theirs."""
    waiting = Waiting(a=DENIED, b=Failure(code="not_found", message="?"), c=GOT, d=GOT)
    waiting.fetcher.go.set()
    outcomes = await asyncio.gather(*waiting.futures.values())
    assert [getattr(o, "code", o) for o in outcomes] == ["denied", "not_found", GOT, None]
    assert waiting.fetcher.tokens == ["a", "b", "c"]


async def test_a_failure_of_the_hub_is_everyones() -> None:
    """It is a fact about the Hub: asking again for each would be a storm."""
    waiting = Waiting(a=DOWN, b=GOT)
    waiting.fetcher.go.set()
    assert await asyncio.gather(*waiting.futures.values()) == [DOWN, DOWN]
    assert waiting.fetcher.tokens == ["a"]


async def test_a_leader_who_leaves_takes_nothing_along() -> None:
    """The download goes on for whoever waits, and one of them tells of it: none is missing in the audit."""
    waiting = Waiting(a=GOT, b=GOT, c=GOT)
    await asyncio.sleep(0)
    waiting.futures["a"].cancel()
    await asyncio.sleep(0)
    waiting.fetcher.go.set()
    assert await waiting.futures["b"] == GOT
    assert await waiting.futures["c"] is None
    assert waiting.fetcher.cancelled == 0


async def test_a_leader_who_left_and_is_denied_makes_room_for_the_next() -> None:
    """Both at once."""
    waiting = Waiting(a=DENIED, b=GOT)
    await asyncio.sleep(0)
    waiting.futures["a"].cancel()
    await asyncio.sleep(0)
    waiting.fetcher.go.set()
    assert await waiting.futures["b"] == GOT


async def test_when_all_leave_the_download_ends_and_the_next_starts_anew() -> None:
    """Nobody waits, so nobody's token is used any longer."""
    waiting = Waiting(a=GOT)
    await asyncio.sleep(0)
    waiting.futures["a"].cancel()
    await asyncio.sleep(0)
    late = waiting.join("a")
    await asyncio.sleep(0)
    assert waiting.fetcher.cancelled == 1
    waiting.fetcher.go.set()
    assert await late == GOT


async def test_a_crash_reaches_everyone_who_waits() -> None:
    """Nobody hangs, and the next caller starts anew."""
    waiting = Waiting(a=RuntimeError("broken"), b=GOT)
    waiting.fetcher.go.set()
    for outcome in await asyncio.gather(*waiting.futures.values(), return_exceptions=True):
        assert isinstance(outcome, RuntimeError)
    assert await waiting.join("b") == GOT


async def test_no_token_is_kept_after_the_flight() -> None:
    """Who waited is forgotten with what they brought."""
    waiting = Waiting(a=GOT, b=GOT)
    flight = waiting.downloads._downloads[REF]
    waiting.fetcher.go.set()
    await asyncio.gather(*waiting.futures.values())
    await asyncio.sleep(0)
    assert [waiter.token for waiter in flight.waiters] == [None, None]
    assert not waiting.downloads._downloads


async def test_who_led_an_attempt_that_broke_steps_back() -> None:
    """The next attempt is the next one's; alone, it is the same one's again; who left leads no other."""
    waiting = Waiting(a=GOT, b=GOT, c=GOT)
    flight = waiting.downloads._downloads[REF]
    await asyncio.sleep(0)

    def lent() -> str:
        token = flight.next_token()
        assert token is not None
        return token.reveal()

    assert [lent(), lent(), lent()] == ["b", "c", "a"]  # `a` led the first
    waiting.futures["b"].cancel()
    await asyncio.sleep(0)
    assert [lent(), lent()] == ["c", "a"]
    waiting.futures["c"].cancel()
    await asyncio.sleep(0)
    assert [lent(), lent()] == ["a", "a"]
    waiting.fetcher.go.set()
    assert await waiting.futures["a"] == GOT
