"""Cold models, and engines that turn out not to hold what the proxy thought."""

import asyncio
import time
from pathlib import Path
from unittest.mock import patch

import pytest

from hubgate.proxy import app
from hubgate.proxy.limits import loads
from hubgate.proxy.limits.loads import AT_ONCE
from hubgate.proxy.settings import Block, Callers, Tokens
from hubgate.wire.control_api import Download, Evicted, FailureCode, LoadFailed, Progress
from tests.fakes.answers import misdirected, refusal
from tests.fakes.backend import Held, babbles, says
from tests.fakes.clock import Clock
from tests.fakes.engine import Answer
from tests.fakes.running_proxy import ALICE, BASE, BOB, PRIVATE, PUBLIC, Edge
from tests.proxy.conftest import StartEdge

CONFIG = f'{{"base_model_name_or_path":"{BASE}"}}'.encode()


async def test_a_cold_model_is_loaded_with_the_callers_own_token(edge: Edge) -> None:
    """The backend gets a token for exactly these repos and commits, and then the request goes through."""
    answer = await edge.chat(PRIVATE, ALICE)
    assert (answer.status, answer.json()["model"]) == (200, edge.at(PRIVATE))
    (token,) = edge.backend.asked
    assert token.secret().reveal() == ALICE
    assert (token.base, token.adapter) == (edge.at(BASE), edge.at(PRIVATE))
    assert edge.backend.request_ids == [answer.header("X-Request-Id")]
    assert edge.engine.requests[0].json()["model"] == edge.at(PRIVATE)


async def test_a_warm_model_asks_the_backend_nothing(edge: Edge) -> None:
    """Once loaded, a model is used without another load, by everybody who may."""
    for token in (ALICE, ALICE, BOB):
        assert (await edge.chat(PUBLIC, token)).status == 200
    assert len(edge.backend.asked) == 1
    assert len(edge.engine.requests) == 3


async def test_the_load_is_in_the_audit(edge: Edge) -> None:
    """What was fetched and loaded is told under the name of who asked for it."""
    sha = edge.at(PUBLIC)
    edge.backend.then(
        says(
            Progress(stage="downloading", repo=sha),
            LoadFailed(code="rejected", message="pickle only", repo=sha),
        )
    )
    assert (await edge.chat(PUBLIC, BOB)).code == "adapter_rejected"
    assert (await edge.chat(PUBLIC, ALICE)).status == 200
    (failed,) = await edge.records(1, "download.done")
    assert (failed["user"], failed["result"], failed["repo"]) == ("bob", "rejected", sha)
    (loaded,) = await edge.records(1, "adapter.loaded")
    assert (loaded["user"], loaded["repo"], loaded["base"]) == ("alice", sha, edge.at(BASE))


async def test_what_made_room_is_in_the_audit(edge: Edge) -> None:
    """An engine that was started, and whatever had to go for it, under the name of who asked."""
    edge.backend.evicts = (
        Evicted(repo=f"demo/other@{'a' * 40}", kind="base"),
        Evicted(repo=f"bob/old-lora@{'b' * 40}", kind="adapter"),
    )
    assert (await edge.chat(PRIVATE, ALICE)).status == 200
    started, ended = await edge.records(2, "engine.state")
    assert (started["user"], started["result"], started["repo"]) == ("alice", "ready", edge.at(BASE))
    assert (ended["result"], ended["repo"]) == ("evicted", f"demo/other@{'a' * 40}")
    (evicted,) = await edge.records(1, "adapter.evicted")
    assert (evicted["user"], evicted["repo"]) == ("alice", f"bob/old-lora@{'b' * 40}")
    assert evicted["for"] == edge.at(PRIVATE)


@pytest.mark.parametrize(
    ("code", "status", "told"),
    [
        ("denied", 403, "access_denied"),
        ("not_found", 404, "model_not_found"),
        ("rejected", 422, "adapter_rejected"),
        ("hub_unavailable", 503, "hub_unavailable"),
        ("store_full", 503, "store_full"),
        ("no_capacity", 503, "no_upstream"),
        ("engine_failed", 503, "no_upstream"),
        ("error", 502, "upstream_error"),
    ],
)
async def test_a_load_that_fails(edge: Edge, code: FailureCode, status: int, told: str) -> None:
    """Each way in which a load can fail has its error, and another caller's try loads again."""
    fetched = Download(repo=edge.at(PUBLIC), kind="adapter", bytes=10, seconds=0.1)
    edge.backend.then(says(LoadFailed(code=code, message="why", retry_after=7, downloads=(fetched,))))
    answer = await edge.chat(PUBLIC)
    assert (answer.status, answer.code) == (status, told)
    assert edge.engine.requests == []
    assert (await edge.chat(PUBLIC, BOB)).status == 200
    assert len(edge.backend.asked) == 2


async def test_a_client_that_does_not_pause_costs_the_backend_nothing(tmp_path: Path) -> None:
    """A load that failed for a while is not tried again within a second, of that caller and model alone."""
    clock = Clock()
    clocks = app.Clocks(now=time.time, monotonic=clock)
    async with Edge.start(tmp_path, clocks=clocks) as edge:
        edge.backend.always(says(LoadFailed(code="no_capacity", message="all busy", retry_after=7)))
        answers = [await edge.chat(PUBLIC) for _ in range(20)]
        told = [(answer.status, answer.code, answer.header("Retry-After")) for answer in answers]
        assert told == [(503, "no_upstream", "7")] * 20
        assert len(edge.backend.asked) == 1
        for model, token in ((PUBLIC, BOB), (PRIVATE, ALICE)):
            assert (await edge.chat(model, token)).status == 503
        assert len(edge.backend.asked) == 3
        clock.advance(1)
        edge.backend.always(edge.backend.make_warm)
        assert (await edge.chat(PUBLIC)).status == 200


async def test_what_fails_for_good_is_tried_again(edge: Edge) -> None:
    """A refusal is the caller's own to mend, on the Hub say, and its next try is a new one."""
    edge.backend.then(says(LoadFailed(code="rejected", message="pickle only")))
    assert (await edge.chat(PUBLIC)).status == 422
    assert (await edge.chat(PUBLIC)).status == 200


async def test_loads_that_were_left_count(start_edge: StartEdge) -> None:
    """Nobody has more by leaving; who comes back for one of them joins it, and others have their own."""
    edge = await start_edge({"models": {"allow": ["*/*"]}, "limits": {"cold_loads_per_hour": 100}})
    names = [f"demo/mine-{number}" for number in range(AT_ONCE + 1)]
    for name in names:
        edge.hub.state.add_repo(name, {"adapter_config.json": CONFIG, "adapter_model.safetensors": b"x"})
    for name in names[:AT_ONCE]:
        edge.backend.then(held := Held(edge.backend.make_warm))
        asking = asyncio.create_task(edge.chat(name, stream=True))
        await held.waiting.wait()
        asking.cancel()
        await held.cancelled.wait()
    refused = await edge.chat(names[-1])
    assert (refused.status, refused.code, refused.header("Retry-After")) == (429, "rate_limit_exceeded", "5")
    assert "cold models being loaded" in refused.json()["error"]["message"]
    assert (await edge.chat(names[-1], BOB)).status == 200
    assert (await edge.chat(names[0])).status == 200
    edge.hub.state.add_repo("demo/mine-too", {"adapter_config.json": CONFIG})
    assert (await edge.chat("demo/mine-too")).status == 200  # one has ended


async def test_a_load_that_was_left_and_became_warm_counts_no_more(start_edge: StartEdge) -> None:
    """The next hello tells that it has ended."""
    edge = await start_edge()
    edge.backend.then(held := Held(edge.backend.make_warm))
    asking = asyncio.create_task(edge.chat(PUBLIC, stream=True))
    await held.waiting.wait()
    asking.cancel()
    await held.cancelled.wait()
    with patch.object(loads, "AT_ONCE", 1):
        refused = await edge.chat(PRIVATE)
        assert (refused.status, refused.code) == (429, "rate_limit_exceeded")
        edge.backend.hosted[0].adapters.add(edge.at(PUBLIC))
        await edge.backend.greeted(2)
        assert (await edge.chat(PRIVATE)).status == 200


@pytest.mark.parametrize("load", [says(), babbles(b"hello\n"), babbles(b'{"type":"ready"}\n')])
async def test_a_load_that_ends_without_a_result(edge: Edge, load: object) -> None:
    """A backend that stops talking is out of reach, for now."""
    edge.backend.then(load)  # type: ignore[arg-type]
    answer = await edge.chat(PUBLIC)
    assert (answer.status, answer.code, answer.header("Retry-After")) == (503, "no_upstream", "5")


async def test_421_means_load_anew_and_try_once_more(edge: Edge) -> None:
    """An engine that does not hold the model after all refused before it ran anything."""
    edge.engine.then(misdirected())
    assert (await edge.chat()).status == 200
    assert len(edge.engine.requests) == 2
    assert len(edge.backend.asked) == 1
    assert edge.engine.requests[0].body == edge.engine.requests[1].body


@pytest.mark.parametrize(
    ("stale", "told"),
    [
        (misdirected(), (503, "model_loading", "1")),
        (refusal(401, "Unauthorized"), (502, "upstream_error", "5")),
    ],
)
async def test_an_engine_that_always_says_so(edge: Edge, stale: Answer, told: tuple[int, str, str]) -> None:
    """After one more load and one more try its place is another's already, or it is the backend's fault."""
    edge.engine.always(stale)
    answer = await edge.chat()
    assert (answer.status, answer.code, answer.header("Retry-After")) == told
    assert len(edge.engine.requests) == 2
    assert len(edge.backend.asked) <= 2


async def test_an_engine_that_refuses_connections(edge: Edge) -> None:
    """Nothing was sent, so there is one new load and one more try; then an error."""
    await edge.engine.down()
    answer = await edge.chat()
    assert (answer.status, answer.code) == (502, "upstream_error")
    assert 1 <= len(edge.backend.asked) <= 2
    await edge.engine.up()
    assert (await edge.chat()).status == 200


async def test_an_engine_that_came_back_elsewhere(edge: Edge) -> None:
    """After a restart on another port the new load leads there."""
    await edge.engine.down()
    edge.engine.port = 0
    await edge.engine.up()
    assert (await edge.chat()).status == 200
    assert len(edge.engine.requests) == 1


async def test_a_backend_that_restarted(edge: Edge) -> None:
    """A token is sealed for the new boot, although the proxy knew the old one."""
    edge.backend.boot = "boot-2"
    assert (await edge.chat(PUBLIC)).status == 200
    assert edge.backend.asked[0].boot == "boot-2"


async def test_a_backend_that_is_down(edge: Edge) -> None:
    """Without a backend there is 503, and the caller is told to come back; afterwards all is well."""
    await edge.backend.down()
    await edge.until_down()
    answer = await edge.chat()
    assert (answer.status, answer.code, answer.header("Retry-After")) == (503, "no_upstream", "5")
    await edge.backend.up()
    await edge.until_ready()
    assert (await edge.chat()).status == 200


async def test_a_backend_that_is_another_gets_nothing(edge: Edge) -> None:
    """A process that answers under another name is not sent anything."""
    edge.backend.name = "gpu-1"
    await edge.until_down()
    assert (await edge.chat(PUBLIC)).code == "no_upstream"
    assert edge.backend.asked == []


async def test_who_waits_too_long_is_told_so(start_edge: StartEdge) -> None:
    """A load that goes on is `model_loading`, with a time to come back, and the proxy stops listening."""
    edge = await start_edge({"cold_start": {"plain_wait": 0.05}})
    held = Held(edge.backend.make_warm)
    edge.backend.then(held)
    answer = await edge.chat(PUBLIC)
    assert (answer.status, answer.code, answer.header("Retry-After")) == (503, "model_loading", "30")
    async with asyncio.timeout(5):
        await held.cancelled.wait()


async def test_a_wait_longer_than_the_access_is_followed_by_a_new_check(start_edge: StartEdge) -> None:
    """Who lost access while the model was loaded does not get it."""
    edge = await start_edge({"hub": {"access_ttl": 0.01}})
    held = Held(edge.backend.make_warm)
    edge.backend.then(held)
    asking = asyncio.create_task(edge.chat(PUBLIC, BOB))
    await held.waiting.wait()
    edge.hub.state.set_gate(BASE, "bob", "rejected")
    await asyncio.sleep(0.02)  # the life of the access, which no event marks
    held.release()
    answer = await asking
    assert (answer.status, answer.code) == (403, "access_denied")
    assert edge.engine.requests == []
    (record,) = await edge.records(1, "auth.denied", "request.done")
    assert (record["event"], record["decision"]) == ("auth.denied", "denied")


async def test_a_wait_longer_than_the_identity_is_followed_by_a_new_question(start_edge: StartEdge) -> None:
    """Whose token was revoked while a public model was loaded does not get it, though anyone may read it."""
    edge = await start_edge({"hub": {"identity_ttl": 0.01, "access_ttl": 60}})
    held = Held(edge.backend.make_warm)
    edge.backend.then(held)
    asking = asyncio.create_task(edge.chat(PUBLIC, BOB))
    await held.waiting.wait()
    edge.hub.state.revoke(user="bob")
    await asyncio.sleep(0.02)  # the life of the identity, which no event marks
    held.release()
    answer = await asking
    assert (answer.status, answer.code) == (401, "invalid_api_key")
    assert edge.engine.requests == []
    (record,) = await edge.records(1, "auth.denied", "request.done")
    assert (record["event"], record["decision"]) == ("auth.denied", "denied")


async def test_who_is_locked_out_during_a_load_is_not_served(start_edge: StartEdge) -> None:
    """The operator's list counts after the wait too; the Hub is not asked again for it."""
    edge = await start_edge()
    held = Held(edge.backend.make_warm)
    edge.backend.then(held)
    asking = asyncio.create_task(edge.chat(PUBLIC, BOB))
    await held.waiting.wait()
    edge.proxy.reloader.caller_policy.replace(Callers(anyone=True, block=Block(users={"bob"})), Tokens())
    held.release()
    assert (await asking).code == "caller_not_allowed"
    assert edge.engine.requests == []
    assert sum(call.endswith("whoami-v2") for call in edge.hub_calls("bob")) == 1


async def test_cold_loads_are_limited(start_edge: StartEdge) -> None:
    """Beyond the limit of loads per hour a caller still uses what is warm."""
    edge = await start_edge({"limits": {"cold_loads_per_hour": 1}})
    assert (await edge.chat(PUBLIC)).status == 200
    answer = await edge.chat(PRIVATE)
    assert (answer.status, answer.code, answer.header("Retry-After")) == (429, "rate_limit_exceeded", "120")
    assert (await edge.chat(PUBLIC)).status == 200
    assert len(edge.backend.asked) == 1


async def test_two_backends(start_edge: StartEdge) -> None:
    """The one that holds the model takes the request; when it goes away the other one loads it."""
    edge = await start_edge(backends=("gpu-0", "gpu-1"))
    await edge.backends[0].greeted()
    await edge.backends[1].greeted()
    for _ in range(3):
        assert (await edge.chat(PUBLIC)).status == 200
    (warm,) = [backend for backend in edge.backends if backend.asked]
    other = next(backend for backend in edge.backends if backend is not warm)
    await warm.down()
    await warm.hosted[0].engine.down()

    async with asyncio.timeout(5):
        while (await edge.chat(PUBLIC)).status != 200:
            pass
    assert len(other.asked) == 1
