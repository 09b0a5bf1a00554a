"""Windows in memory: they slide, and vanish."""

from hubgate.proxy.limits.memory_counters import UNBOUNDED, Claim, Count, MemoryCounters
from tests.fakes.clock import Clock


def take(counters: MemoryCounters, key: str = "a", most: int = UNBOUNDED) -> Count:
    """One use within a minute."""
    (count,) = counters.take_now([Claim(key, most, UNBOUNDED)], 60)
    return count


def told(count: Count) -> tuple[bool, int, int, float, float]:
    """All of it."""
    return count.let_in, count.uses, count.tokens, count.more_uses_in, count.more_tokens_in


def test_a_use_counts_for_its_time() -> None:
    """Each leaves as old as the window is long, whenever the others came."""
    clock = Clock()
    counters = MemoryCounters(clock)
    assert told(take(counters)) == (True, 1, 0, 60, 0)
    clock.advance(45)
    counters.charge(["a"], 60, tokens=9)
    assert told(take(counters)) == (True, 2, 9, 15, 60)
    clock.advance(15)
    assert told(take(counters)) == (True, 2, 9, 45, 45)
    clock.advance(45)
    assert told(take(counters)) == (True, 2, 0, 15, 0)


def test_uses_that_come_soon_after_each_other_leave_together() -> None:
    """They are a slice, which begins with its first use, is a twelfth long, and leaves with its last one."""
    clock = Clock()
    counters = MemoryCounters(clock)
    for _ in range(3):
        take(counters)
        clock.advance(2.4)  # 0, 2.4 and 4.8 seconds
    take(counters)  # 7.2: another one
    clock.advance(57.5)
    assert take(counters).uses == 5  # 64.7
    clock.advance(0.1)
    assert take(counters).uses == 3


def test_all_windows_have_room_or_none_counts() -> None:
    """What one of them refuses leaves no trace in the other."""
    counters = MemoryCounters(Clock())
    wide, narrow = Claim("wide", 10, UNBOUNDED), Claim("narrow", 1, UNBOUNDED)
    assert [count.let_in for count in counters.take_now([wide, narrow], 60)] == [True, True]
    for _ in range(3):
        found = counters.take_now([wide, narrow], 60)
        assert [(count.let_in, count.uses) for count in found] == [(False, 1), (False, 1)]
    assert take(counters, "wide").uses == 2


def test_a_hundred_thousand_callers_leave_nothing() -> None:
    """Windows without uses are removed while others begin, so memory follows who calls now."""
    clock = Clock()
    counters = MemoryCounters(clock)
    for caller in range(100_000):
        take(counters, f"old-{caller}")
    assert len(counters) == 100_000
    clock.advance(60)
    for caller in range(101):
        take(counters, f"new-{caller}")
    assert len(counters) == 101


def test_callers_who_go_on_keep_nothing_of_the_others() -> None:
    """Of those who came once between them no more are kept than there are callers who go on."""
    clock = Clock()
    counters = MemoryCounters(clock)
    for second in range(1000):
        for regular in range(0, 500, 5):
            if second % 20 == regular % 20:
                take(counters, f"regular-{regular}")
        take(counters, f"once-{second}")
        clock.advance(1)
    assert len(counters) <= 2 * (100 + 60)
    assert take(counters, "regular-0").uses == 3  # the last two, and this one


def test_a_name_that_was_let_in_stays_so_for_a_while() -> None:
    """It counts once, also where it was the last one; others are refused, and that leaves no trace."""
    clock = Clock()
    counters = MemoryCounters(clock)
    claims = [Claim("loads:a", 1, UNBOUNDED)]
    assert [count.let_in for count in counters.admit_now(claims, 3600, "m", 60)] == [True]
    for _ in range(3):
        assert counters.admit_now(claims, 3600, "m", 60) == ()
        assert [told(one) for one in counters.admit_now(claims, 3600, "other", 60)] == [
            (False, 1, 0, 3600, 0)
        ]
    clock.advance(60)
    assert [told(one) for one in counters.admit_now(claims, 3600, "m", 60)] == [(False, 1, 0, 3540, 0)]
    clock.advance(3540)
    assert [count.let_in for count in counters.admit_now(claims, 3600, "other", 60)] == [True]
    assert len(counters) == 2
