"""What is known of one request: its id, its times and its audit record."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import record
from proxy.auth.authorization import Access
from proxy.errors import STATUS, Denied
from proxy.exchange import Exchange, request_id
from tests.fakes.clock import START
from tests.fakes.identity import identity
from wire.repo import RepoRef

SHA = "a" * 40
BASE = RepoRef.parse(f"demo/tiny@{SHA}")
LORA = RepoRef.parse(f"alice/lora@{'b' * 40}")


def exchange() -> Exchange:
    made = Exchange("req-1", "127.0.0.1")
    made.endpoint = "/v1/completions"
    return made


def told(one: Exchange) -> dict[str, Any]:
    """The members of its audit record."""
    found: dict[str, Any] = json.loads(f"{{{record.of(one, START).removeprefix(',')}}}")
    return found


@pytest.mark.parametrize("inbound", ["abcdefgh", "req-0123456789", "A.b_c-d9", "x" * 128])
def test_a_sane_id_is_kept(inbound: str) -> None:
    """The caller's own request id is echoed if it is plain and of a sane length."""
    assert request_id(inbound) == inbound


@given(st.none() | st.text(max_size=200))
def test_other_ids_are_replaced(inbound: str | None) -> None:
    """An id is plain ASCII of 8 to 128 characters, whatever came in."""
    made = request_id(inbound)
    assert made.isascii()
    assert 8 <= len(made) <= 128
    assert set(made) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


def test_made_ids_differ() -> None:
    """Two requests without an id get two."""
    assert request_id(None) != request_id("x\r\ny")


def test_phases_add_up() -> None:
    """Each moment belongs to one phase, stays in it are summed up, and headers tell milliseconds."""
    one = exchange()
    one.enter("auth")
    first = one.enter("own")
    one.enter("auth")
    second = one.enter("load")
    assert one.auth_seconds == first + second > 0
    one.enter("own")
    assert one.overhead + one.load_seconds == pytest.approx(one.elapsed, rel=0.5)
    one.auth_seconds, one.limits_seconds, one.load_seconds, one.body_seconds = 0.0125, 0, 1.5, 3
    assert one.server_timing() == "auth;dur=12.5, limits;dur=0.0, load;dur=1500.0, upstream;dur=0.0"


def test_a_phase_that_goes_on_is_told() -> None:
    """Headers are written while the engine answers: the time until then stands in them."""
    one = exchange()
    one.enter("upstream")
    begun = time.perf_counter()
    while time.perf_counter() - begun < 0.002:
        pass
    assert not one.server_timing().endswith("upstream;dur=0.0")


def test_overhead_is_the_proxys_own_time() -> None:
    """Waiting for the caller's body, the Hub, a load or the engine is not overhead."""
    one = exchange()
    one.started -= 8.75
    one.auth_seconds, one.limits_seconds = 2, 0.5  # 0.25 were nobody's
    one.body_seconds, one.load_seconds, one.upstream_seconds = 1, 3, 2
    one.hub_wait = 1.5
    assert one.overhead == pytest.approx(1.25)
    one.hub_wait = 100
    assert one.overhead == 0


def test_a_good_request_is_granted() -> None:
    """The record of a good request says who used what, at which commits, on which base."""
    one = exchange()
    one.identity, one.model, one.access = identity(), "alice/lora", Access(BASE, LORA)
    one.answered(200)
    found = told(one)
    assert (found["user"], found["token_name"], found["role"]) == ("alice", "alice-ci", "read")
    assert found["token_age_days"] == 10.0
    assert (found["repo"], found["sha"], found["base"]) == ("alice/lora", "b" * 40, str(BASE))
    assert (found["decision"], found["reason"], found["temperature"]) == ("granted", "ok", "warm")
    assert not one.turned_away


@pytest.mark.parametrize("code", STATUS)
def test_who_is_turned_away_is_denied(code: str) -> None:
    """Refusing the caller or the model is a denial; a failure is no decision."""
    one = exchange()
    one.refused(Denied(code, "why"))  # type: ignore[arg-type]
    found = told(one)
    denied = STATUS[code] in (401, 403, 404)  # type: ignore[index]
    assert one.turned_away is denied
    assert (found.get("decision") == "denied") is denied
    assert (found["status"], found["reason"]) == (STATUS[code], code)  # type: ignore[index]


def test_after_a_grant_a_failure_is_no_denial() -> None:
    """A request that was granted and then failed stays granted, with the real reason."""
    one = exchange()
    one.access = Access(BASE)
    one.answered(200)
    one.failed("upstream_error")
    found = told(one)
    assert (found["decision"], found["status"], found["reason"]) == ("granted", 200, "upstream_error")
    one.left()
    assert (one.status, one.code) == (499, "client_left")


def test_a_record_holds_no_credential() -> None:
    """A record is plain JSON, of names and numbers."""
    one = exchange()
    one.identity = identity()
    text = record.of(one, START)
    assert "hf_" not in text
    assert identity().salt not in text
