"""What is known of one request: its id and its times."""

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubgate.proxy.auth.blocklist import LOCKED_OUT
from hubgate.proxy.context import RequestContext, new_id, sane_id
from hubgate.proxy.errors import Denied


def context() -> RequestContext:
    made = RequestContext("req-1", "127.0.0.1")
    made.endpoint = "/v1/completions"
    return made


@pytest.mark.parametrize("inbound", ["abcdefgh", "req-0123456789", "A.b_c-d9", "x" * 128])
def test_a_sane_id_is_kept(inbound: str) -> None:
    """The caller's own request id is echoed if it is plain and of a sane length."""
    assert sane_id(inbound) == inbound


@given(st.none() | st.text(max_size=200))
def test_other_ids_are_replaced(inbound: str | None) -> None:
    """An id is plain ASCII of 8 to 128 characters, whatever came in."""
    made = sane_id(inbound) or new_id()
    assert made.isascii()
    assert 8 <= len(made) <= 128
    assert set(made) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


def test_made_ids_differ() -> None:
    """Two requests without an id get two."""
    assert new_id() != new_id()


def test_phases_add_up() -> None:
    """Each moment belongs to one phase, stays in it are summed up, and headers tell milliseconds."""
    one = context()
    one.enter("auth")
    first = one.enter("own")
    one.enter("auth")
    second = one.enter("load")
    assert one.auth_seconds == first + second > 0
    before = one.elapsed
    one.enter("own")
    spent = one.overhead + one.load_seconds
    assert before - 1e-9 <= spent <= one.elapsed + 1e-9  # sums of floats
    one.auth_seconds, one.limits_seconds, one.load_seconds, one.body_seconds = 0.0125, 0, 1.5, 3
    assert one.server_timing() == "auth;dur=12.5, limits;dur=0.0, load;dur=1500.0, upstream;dur=0.0"
    one.queue_seconds = 0.25
    assert one.server_timing().endswith("upstream;dur=0.0, queue;dur=250.0")


def test_a_phase_that_goes_on_is_told() -> None:
    """Headers are written while the engine answers: the time until then stands in them."""
    one = context()
    one.enter("upstream")
    begun = time.perf_counter()
    while time.perf_counter() - begun < 0.002:
        pass
    assert not one.server_timing().endswith("upstream;dur=0.0")


def test_overhead_is_the_proxys_own_time() -> None:
    """Waiting for the caller's body, the Hub, a load or the engine is not overhead."""
    one = context()
    one.started -= 8.75
    one.auth_seconds, one.limits_seconds = 2, 0.5  # 0.25 were nobody's
    one.body_seconds, one.load_seconds, one.upstream_seconds = 1, 3, 2
    one.hub_wait = 1.5
    assert one.overhead == pytest.approx(1.25)
    one.hub_wait = 100
    assert one.overhead == 0


@pytest.mark.parametrize("locked_out", [LOCKED_OUT, None])
async def test_a_cancellation_is_taken_over_by_a_lock_out_alone(locked_out: Denied | None) -> None:
    """The task goes on as if it had not been cancelled; where the caller left, it stays cancelled."""
    made = context()
    made.locked_out = locked_out

    async def handle() -> tuple[Denied | None, int]:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return made.interrupted(), task.cancelling()
        pytest.fail("nobody cancelled it")

    task = asyncio.create_task(handle())
    await asyncio.sleep(0)
    task.cancel()
    assert await task == (locked_out, int(locked_out is None))
