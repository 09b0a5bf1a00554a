"""One caller cannot take everything: requests and tokens per minute, requests at once, cold loads."""

from typing import Any

import pytest

from hubgate.proxy.errors import Denied
from hubgate.proxy.limits.limiter import Limiter, Permit
from hubgate.proxy.limits.memory_counters import MemoryCounters
from hubgate.proxy.settings import Limits as LimitSettings
from tests.cases import each
from tests.fakes.clock import Clock
from tests.fakes.identity import identity
from tests.fakes.lines import by_name

ALICE, BOB = identity(), identity(sub="b" * 32, user="bob", orgs=frozenset())


def limits(clock: Clock | None = None, **values: Any) -> Limiter:
    """Limits in memory."""
    return Limiter(LimitSettings.model_validate(values), (), MemoryCounters(clock or Clock()))


async def used(subject: Limiter, tokens: int) -> None:
    """One request of alice, whose answer uses so many tokens."""
    permit = await subject.acquire(ALICE)
    assert isinstance(permit, Permit)
    subject.release(permit, tokens)


async def left(subject: Limiter, what: str) -> str:
    """What the headers of alice's next request say of requests or tokens; it ends without using any."""
    permit = await subject.acquire(ALICE)
    if isinstance(permit, Permit):
        subject.release(permit)
    return by_name(permit.lines)[f"x-ratelimit-remaining-{what}"]


async def test_requests_within_a_minute_are_counted() -> None:
    """The request over the limit is refused with a time to come back; another caller is not."""
    clock = Clock()
    few = limits(clock, requests_per_minute=2)
    for expected in ("1", "0"):
        permit = await few.acquire(ALICE)
        assert isinstance(permit, Permit)
        few.release(permit)
        headers = by_name(permit.lines)
        assert headers["x-ratelimit-limit-requests"] == "2"
        assert headers["x-ratelimit-remaining-requests"] == expected
    clock.advance(20.5)
    denied = await few.acquire(ALICE)
    assert isinstance(denied, Denied)
    assert (denied.code, denied.retry_after) == ("rate_limit_exceeded", 40)
    assert by_name(denied.lines)["x-ratelimit-remaining-requests"] == "0"
    assert isinstance(await few.acquire(BOB), Permit)
    clock.advance(39.5)
    assert isinstance(await few.acquire(ALICE), Permit)


async def test_what_was_refused_changes_nothing() -> None:
    """Hammering frees no place, and what was refused does not put off the time that was told."""
    clock = Clock()
    few = limits(clock, requests_per_minute=1)
    assert isinstance(await few.acquire(ALICE), Permit)
    for left in range(60, 0, -1):
        denied = await few.acquire(ALICE)
        assert isinstance(denied, Denied)
        assert denied.retry_after == left
        clock.advance(1)
    assert isinstance(await few.acquire(ALICE), Permit)


async def test_what_is_refused_by_another_limit_counts() -> None:
    """Who is let in here and has too much under way has used up a request."""
    few = limits(requests_per_minute=2, concurrent_requests=1)
    assert isinstance(await few.acquire(ALICE), Permit)
    for says in ("under way", "within a minute"):
        denied = await few.acquire(ALICE)
        assert isinstance(denied, Denied)
        assert says in denied.message


async def test_a_burst_at_the_edge_of_a_minute_gets_no_second_one() -> None:
    """550 requests at 58.7 seconds and 600 at 60.1 are 600 that are let in, wherever minutes begin."""
    clock = Clock()
    some = limits(clock, requests_per_minute=600)
    await used(some, 0)
    clock.advance(58.7)
    for _ in range(549):
        await used(some, 0)
    clock.advance(1.4)
    late = [await some.acquire(ALICE) for _ in range(600)]
    assert sum(isinstance(one, Permit) for one in late) == 51


async def test_tokens_within_a_minute_are_counted() -> None:
    """A caller is admitted while tokens are left, and refused from then on, until some are a minute ago."""
    clock = Clock()
    few = limits(clock, tokens_per_minute=10)
    await used(few, 9)
    clock.advance(10)
    await used(few, 7)  # one token was left, and only the end of the answer tells how many it took
    denied = await few.acquire(ALICE)
    assert isinstance(denied, Denied)
    assert (denied.code, denied.retry_after) == ("rate_limit_exceeded", 50)
    assert "16 tokens of 10" in denied.message
    assert by_name(denied.lines)["x-ratelimit-remaining-tokens"] == "0"
    assert isinstance(await few.acquire(BOB), Permit)
    clock.advance(50)
    assert await left(few, "tokens") == "3"
    clock.advance(10)
    assert await left(few, "tokens") == "10"


async def test_a_token_limit_that_is_reached_exactly_is_used_up() -> None:
    """Nothing left means nothing more, and not one request more."""
    few = limits(tokens_per_minute=10)
    await used(few, 10)
    assert isinstance(await few.acquire(ALICE), Denied)


@pytest.mark.parametrize(
    ("passed", "written"), [(6, "54s"), (6.5, "54s"), (7, "53s"), (59, "1s"), (59.9, "1s")]
)
async def test_headers_are_written_as_openai_does(passed: float, written: str) -> None:
    """Both families name limit, rest and reset; a reset never tells a caller to come back too early."""
    clock = Clock()
    some = limits(clock, requests_per_minute=5, tokens_per_minute=100)
    await used(some, 30)
    clock.advance(passed)
    permit = await some.acquire(ALICE)
    assert by_name(permit.lines) == {
        "x-ratelimit-limit-requests": "5",
        "x-ratelimit-remaining-requests": "3",
        "x-ratelimit-reset-requests": written,
        "x-ratelimit-limit-tokens": "100",
        "x-ratelimit-remaining-tokens": "70",
        "x-ratelimit-reset-tokens": written,
    }


async def test_a_late_charge_does_not_put_requests_off() -> None:
    """Who was told when there is room for a request is let in then, whatever answers have cost meanwhile."""
    clock = Clock()
    few = limits(clock, requests_per_minute=1)
    permit = await few.acquire(ALICE)
    assert isinstance(permit, Permit)
    clock.advance(1)
    denied = await few.acquire(ALICE)
    assert isinstance(denied, Denied)
    assert denied.retry_after == 59
    clock.advance(3)
    few.release(permit, 5)
    clock.advance(56)
    assert isinstance(await few.acquire(ALICE), Permit)


async def test_requests_at_once_are_counted() -> None:
    """A place is taken from `acquire` to `release`, each caller's own."""
    few = limits(concurrent_requests=2)
    one, two = await few.acquire(ALICE), await few.acquire(ALICE)
    assert isinstance(one, Permit)
    assert isinstance(two, Permit)
    denied = await few.acquire(ALICE)
    assert isinstance(denied, Denied)
    assert denied.retry_after == 1
    assert isinstance(await few.acquire(BOB), Permit)
    few.release(one)
    assert isinstance(await few.acquire(ALICE), Permit)


async def test_a_heavy_request_takes_several_places() -> None:
    """It gets them where they are free, else none but its first; all come back together."""
    few = limits(concurrent_requests=8)
    heavy, light = await few.acquire(ALICE), await few.acquire(ALICE)
    assert isinstance(heavy, Permit)
    assert isinstance(light, Permit)
    assert few.widen(heavy, 6) is None
    denied = few.widen(light, 3)
    assert isinstance(denied, Denied)
    assert (denied.code, denied.retry_after) == ("rate_limit_exceeded", 1)
    assert "counts as 3 of the 8" in denied.message
    assert few.widen(light, 2) is None
    assert isinstance(await few.acquire(ALICE), Denied)
    other = await few.acquire(BOB)
    assert isinstance(other, Permit)
    assert few.widen(other, 8) is None
    for permit in (heavy, light, other):
        few.release(permit)
    assert not few._under_way


async def test_one_that_is_heavier_than_all_places_takes_all() -> None:
    """A caller with few places can still ask for many answers, while nothing else is under way."""
    few = limits(concurrent_requests=4)
    heavy = await few.acquire(ALICE)
    assert isinstance(heavy, Permit)
    assert few.widen(heavy, 40) is None
    assert isinstance(await few.acquire(ALICE), Denied)
    few.release(heavy)
    light, heavy = await few.acquire(ALICE), await few.acquire(ALICE)
    assert isinstance(light, Permit)
    assert isinstance(heavy, Permit)
    assert isinstance(few.widen(heavy, 40), Denied)
    few.release(light)
    few.release(heavy)
    assert not few._under_way


async def test_places_are_forgotten_when_empty() -> None:
    """Callers who have nothing under way cost no memory."""
    many = limits()
    permits = [await many.acquire(identity(sub=str(number))) for number in range(100)]
    for permit in permits:
        assert isinstance(permit, Permit)
        many.release(permit)
    assert not many._under_way


async def test_cold_loads_are_counted_apart() -> None:
    """Loads have their own hour, which ordinary requests do not use up."""
    clock = Clock()
    few = limits(clock, cold_loads_per_hour=1)
    assert await few.cold_load(ALICE, "demo/a") is None
    clock.advance(1800)
    denied = await few.cold_load(ALICE, "demo/b")
    assert denied is not None
    assert (denied.code, denied.retry_after) == ("rate_limit_exceeded", 1800)
    assert await few.cold_load(BOB, "demo/b") is None
    assert isinstance(await few.acquire(ALICE), Permit)
    clock.advance(1800)
    assert await few.cold_load(ALICE, "demo/b") is None


async def test_waiters_for_one_model_are_one_load() -> None:
    """Sixty requests for the same cold model cost one load, also where it was the last one allowed."""
    clock = Clock()
    few = limits(clock, cold_loads_per_hour=2)
    for model in ("demo/a", "demo/b"):
        assert not any([await few.cold_load(ALICE, model) for _ in range(60)])
    clock.advance(60)
    assert await few.cold_load(ALICE, "demo/a") is not None  # unloaded meanwhile: a load of its own


async def test_a_refused_load_is_refused_again() -> None:
    """Asking twice for the same model is no way around the limit."""
    few = limits(cold_loads_per_hour=1)
    assert await few.cold_load(ALICE, "demo/a") is None
    assert all([await few.cold_load(ALICE, "demo/b") for _ in range(3)])


async def test_new_numbers_count_from_the_next_request_on() -> None:
    """What was counted stays counted: a caller is throttled at once, and let go at once."""
    some = limits(requests_per_minute=100)
    for _ in range(10):
        await used(some, 0)
    some.replace(
        LimitSettings.model_validate({"overrides": {"users": {"alice": {"requests_per_minute": 5}}}})
    )
    assert isinstance(await some.acquire(ALICE), Denied)
    assert isinstance(await some.acquire(BOB), Permit)
    some.replace(LimitSettings(requests_per_minute=100))
    assert await left(some, "requests") == "89"


async def test_a_reset_tells_when_there_is_more() -> None:
    """Of requests and of tokens by themselves; with nothing used yet that is now, and a minute at most."""
    clock = Clock()
    some = limits(clock, requests_per_minute=3)
    permit = await some.acquire(ALICE)
    assert isinstance(permit, Permit)
    headers = by_name(permit.lines)
    assert (headers["x-ratelimit-reset-requests"], headers["x-ratelimit-reset-tokens"]) == ("1m0s", "0s")
    clock.advance(20)
    some.release(permit, 7)
    clock.advance(10)
    headers = by_name((await some.acquire(ALICE)).lines)
    assert (headers["x-ratelimit-reset-requests"], headers["x-ratelimit-reset-tokens"]) == ("30s", "50s")
    clock.advance(30)
    assert await left(some, "requests") == "1"


NUMBERS = ("requests_per_minute", "tokens_per_minute", "concurrent_requests", "cold_loads_per_hour")


@each("value", [0, -1])
@each("key", NUMBERS)
def test_nothing_means_unlimited(key: str, value: int) -> None:
    """0 is refused: it could be read as none or as without end."""
    wrong: dict[str, Any] = {key: value}
    for fields in (wrong, {"overrides": {"users": {"alice": wrong}}}):
        with pytest.raises(ValueError, match="greater than 0"):
            LimitSettings.model_validate(fields)


@pytest.mark.parametrize(
    "storage",
    ["memory://", "redis://localhost", "redis://h:6379/", "rediss://h/1", "redis://me:p%40ss@[::1]:6379/0"],
)
def test_storages(storage: str) -> None:
    """Memory and Redis can be configured, and a credential in it shows nowhere."""
    found = LimitSettings.model_validate({"storage": storage})
    assert found.storage.reveal() == storage
    assert storage not in repr(found)


@each(
    "storage",
    [
        "",
        None,
        5,
        "memory://x",
        "mysql://canary@h",
        "redis://",
        "redis:///0",
        "redis://:canary@",
        "redis://h/canary",
        "redis://h:canary",
        "redis://:can/ary@h:1",
        "redis://h:0",
        "redis://h?password=canary",
        "redis://h?socket_timeout=9",
        "redis://h#canary",
        "redis://[canary",
        "xredis://h",
    ],
)
def test_other_storages_are_refused(storage: Any) -> None:
    """What is no plain URL of a Redis is refused, without being repeated."""
    with pytest.raises(ValueError, match="must be memory://, or redis://") as caught:
        LimitSettings.model_validate({"storage": storage})
    assert "can" not in str(caught.value)


def test_one_storage_is_named() -> None:
    """A URL and a file with another one contradict each other; the default does not."""
    assert LimitSettings.model_validate({"storage": "memory://", "storage_file": "/run/x"}).storage_file
    with pytest.raises(ValueError, match="remove one"):
        LimitSettings.model_validate({"storage": "redis://h", "storage_file": "/run/x"})
