"""Windows in memory: they begin with a first use, end, and vanish."""

from hubgate.proxy.limits.memory_counters import MemoryCounters, WindowCount
from tests.fakes.clock import Clock


async def test_a_window_lasts_its_time() -> None:
    """It begins with the first use, not on the clock's minute, and later uses do not stretch it."""
    clock = Clock()
    counters = MemoryCounters(clock)
    assert await counters.add("a", 60, uses=1) == WindowCount(1, 0, 60)
    clock.advance(45)
    counters.charge("a", 60, tokens=9)
    assert await counters.add("a", 60, uses=2) == WindowCount(3, 9, 15)
    clock.advance(15)
    assert await counters.add("a", 60) == WindowCount(0, 0, 60)


async def test_a_hundred_thousand_callers_leave_nothing() -> None:
    """Windows that ended are removed while others begin, so memory follows who calls now."""
    clock = Clock()
    counters = MemoryCounters(clock)
    for caller in range(100_000):
        await counters.add(f"old-{caller}", 60, uses=1)
    assert len(counters) == 100_000
    clock.advance(60)
    for caller in range(100):
        await counters.add(f"new-{caller}", 60, uses=1)
    assert len(counters) == 100


async def test_a_caller_who_goes_on_is_not_swept() -> None:
    """A window that began anew stands behind the others, whenever its caller came first."""
    clock = Clock()
    counters = MemoryCounters(clock)
    await counters.add("a", 60, uses=1)
    clock.advance(30)
    await counters.add("b", 60, uses=1)
    clock.advance(30)
    await counters.add("a", 60, uses=1)
    clock.advance(30)
    await counters.add("c", 60, uses=1)
    assert len(counters) == 2
    assert (await counters.add("a", 60, uses=1)).uses == 2
