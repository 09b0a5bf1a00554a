"""What an engine knows of its own traffic."""

from contextlib import suppress
from typing import Any

from hubgate.backend.plugin.traffic import USERS, ModelUse, Traffic
from tests.fakes.clock import Clock


def test_requests_are_counted_while_they_last() -> None:
    """Also those that fail."""
    clock = Clock()
    traffic = Traffic(clock)
    with suppress(RuntimeError), traffic.request("a"), traffic.request("b"):
        assert traffic.status().in_flight == 2
        raise RuntimeError
    clock.advance(3)
    assert traffic.status().models == {
        "a": ModelUse(in_flight=0, idle=3),
        "b": ModelUse(in_flight=0, idle=3),
    }


def test_an_adapter_on_its_way_is_in_flight_and_no_request() -> None:
    """Also if it fails: the engine is busy with it, for as long as that takes."""
    traffic = Traffic(Clock())
    with suppress(RuntimeError), traffic.order():
        assert (traffic.status().in_flight, traffic.status().models) == (1, {})
        raise RuntimeError
    assert traffic.status().in_flight == 0


async def test_what_leaves_is_counted() -> None:
    """Part by part, once the connection has taken it: a reader who does not read is no progress."""
    traffic, sent = Traffic(Clock()), []

    async def send(message: Any) -> None:
        sent.append((message, traffic.status().sent))

    counted = traffic.counting(send)
    for part in ("start", "one", "two"):
        await counted({"part": part})
    assert sent == [({"part": "start"}, 0), ({"part": "one"}, 1), ({"part": "two"}, 2)]
    assert traffic.status().sent == 3


def test_what_was_put_in_and_never_used_is_idle_since_then() -> None:
    """Else it would keep its place for ever."""
    clock = Clock()
    traffic = Traffic(clock)
    traffic.touch("a")
    clock.advance(4)
    assert traffic.status().models == {"a": ModelUse(in_flight=0, idle=4)}


def test_a_refused_model_is_refused_alone_and_for_a_while() -> None:
    """Others go on; afterwards it may come back."""
    traffic = Traffic(Clock())
    with traffic.refusing("a"):
        assert not traffic.admits("a")
        assert traffic.admits("b")
    assert traffic.admits("a")


def test_a_draining_engine_admits_nothing() -> None:
    """Until it has slept and was woken up."""
    traffic = Traffic(Clock())
    traffic.draining = True
    assert not traffic.admits("a")
    traffic.draining = False
    assert traffic.admits("a")


def test_a_forgotten_model_leaves_no_trace() -> None:
    """Names do not pile up."""
    traffic = Traffic(Clock())
    with traffic.request("a"):
        pass
    traffic.forget("a")
    assert traffic.status().models == {}


def test_who_uses_a_model_is_known() -> None:
    """Since when each of them does not; while one of their requests is in flight, they use it now."""
    clock = Clock()
    traffic = Traffic(clock)
    with traffic.request("a", "alice"):
        with traffic.request("a", "bob"):
            clock.advance(2)
        clock.advance(3)
        assert traffic.status().models["a"].users == {"alice": 0, "bob": 3}
    clock.advance(1)
    assert traffic.status().models["a"] == ModelUse(in_flight=0, idle=1, users={"alice": 1, "bob": 4})


def test_of_many_users_the_last_are_known() -> None:
    """Pseudonyms do not pile up; who uses it now is never forgotten."""
    clock = Clock()
    traffic = Traffic(clock)
    with traffic.request("a", "busy"):
        for number in range(10 * USERS):
            clock.advance(1)
            with traffic.request("a", f"caller-{number}"):
                pass
        users = traffic.status().models["a"].users
    assert USERS <= len(users) <= 2 * USERS
    assert set(users) >= {"busy", *(f"caller-{number}" for number in range(9 * USERS + 1, 10 * USERS))}
