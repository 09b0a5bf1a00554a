"""One caller cannot take everything: requests per minute, at once, and cold loads."""

import pytest

from proxy.errors import Denied
from proxy.limits import Limits, Permit
from proxy.settings import Limits as LimitSettings
from tests.fakes.identity import identity

ALICE, BOB = identity(), identity(sub="b" * 32)


def limits(**values: int) -> Limits:
    """Limits in memory."""
    return Limits(LimitSettings.model_validate(values))


async def test_requests_within_a_minute_are_counted() -> None:
    """The request over the limit is refused with a time to come back; another caller is not."""
    few = limits(requests_per_minute=2)
    for left in ("1", "0"):
        permit = await few.acquire(ALICE)
        assert isinstance(permit, Permit)
        few.release(permit)
        headers = dict(permit.headers)
        assert headers["x-ratelimit-limit-requests"] == "2"
        assert headers["x-ratelimit-remaining-requests"] == left
    denied = await few.acquire(ALICE)
    assert isinstance(denied, Denied)
    assert denied.code == "rate_limit_exceeded"
    assert denied.retry_after is not None
    assert 0 <= denied.retry_after <= 60
    assert dict(denied.headers)["x-ratelimit-remaining-requests"] == "0"
    assert isinstance(await few.acquire(BOB), Permit)


async def test_refused_requests_count_too() -> None:
    """Hammering does not free a place: a refusal holds none, and does not open the window."""
    few = limits(requests_per_minute=1)
    assert isinstance(await few.acquire(ALICE), Permit)
    for _ in range(5):
        assert isinstance(await few.acquire(ALICE), Denied)


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
    few = limits(cold_loads_per_hour=1)
    assert await few.cold_load(ALICE, "demo/a") is None
    denied = await few.cold_load(ALICE, "demo/b")
    assert denied is not None
    assert (denied.code, denied.retry_after) == ("rate_limit_exceeded", 120)
    assert await few.cold_load(BOB, "demo/b") is None
    assert isinstance(await few.acquire(ALICE), Permit)


async def test_waiters_for_one_model_are_one_load() -> None:
    """Sixty requests for the same cold model cost one load."""
    few = limits(cold_loads_per_hour=1)
    assert not any([await few.cold_load(ALICE, "demo/a") for _ in range(60)])


@pytest.mark.parametrize("value", [0, -1])
@pytest.mark.parametrize("key", ["requests_per_minute", "concurrent_requests", "cold_loads_per_hour"])
def test_nothing_means_unlimited(key: str, value: int) -> None:
    """0 is refused: it could be read as none or as without end."""
    with pytest.raises(ValueError, match="greater than 0"):
        limits(**{key: value})


@pytest.mark.parametrize("storage", ["memory://", "redis://localhost", "rediss://localhost/1"])
def test_storages(storage: str) -> None:
    """Memory and Redis can be configured, and nothing else."""
    assert LimitSettings(storage=storage).storage == storage
    with pytest.raises(ValueError, match="pattern"):
        LimitSettings(storage=f"x{storage}")
