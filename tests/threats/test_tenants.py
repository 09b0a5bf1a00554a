"""One caller's models do not exist for another: not when loaded, not on disk, not by what asking costs."""

import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from statistics import median
from time import perf_counter

import msgspec
import pytest

from hubgate.demo.hub import DemoHub
from tests.backend.harness import running
from tests.fakes.raw import RawAnswer
from tests.fakes.running_proxy import ALICE, BASE, BOB, CHAT, MESSAGES, MISSING, PRIVATE, PUBLIC, Edge
from tests.isolation.client import Client
from tests.threats.line_trace import traced
from tests.threats.recorder import Heard, Recorder
from tests.threats.stack import Stack

EVE, PENDING, REJECTED = "hf_demo_eve", "hf_demo_pending", "hf_demo_rejected"


def plain(answer: RawAnswer, name: str) -> bytes:
    """Every byte of an answer, but for its date and the name that was asked for."""
    assert answer.complete
    return re.sub(rb"Date: [^\r]*\r\n", b"", answer.raw).replace(name.encode(), b"{name}")


async def test_row_17_what_a_real_backend_loaded_for_alice_is_not_there_for_bob(tmp_path: Path) -> None:
    """Files in the store, adapter in the engine: bob gets the bytes of a missing repo; nothing is asked."""
    async with Stack.start(tmp_path) as stack:
        assert (await stack.chat(PRIVATE, ALICE)).status == 200
        assert (await stack.chat(BASE, BOB)).status == 200
        asked = len(stack.recorder.of(download=True))
        for suffix in ("", "@main", "@" + stack.hub.state.sha(PRIVATE)):
            private = await stack.chat(PRIVATE + suffix, BOB)
            missing = await stack.chat(MISSING + suffix, BOB)
            assert (private.status, private.code) == (404, "model_not_found")
            assert plain(private, PRIVATE) == plain(missing, MISSING)
        assert len(stack.recorder.of(download=True)) == asked
        (engine,) = (await stack.backend.hello()).engines
        assert engine.adapters == (stack.backend.sha(PRIVATE),)
        # Nor with a grant that a proxy would have made for bob's own model.
        assert (await stack.backend.use(engine, "alice/nobody-lora@" + "0" * 40))[0] == 421


async def test_row_18_files_in_the_store_let_nobody_in(tmp_path: Path) -> None:
    """On a warm store, with no engine running: whom the Hub refuses is refused, and nothing starts."""
    async with DemoHub.start() as hub, running(tmp_path, hub) as before:
        await before.ready(before.sha(BASE), before.sha(PRIVATE))
    stored = sorted((tmp_path / "store").glob("[!.]*/*/*/*"))
    assert len([path for path in stored if path.suffix == ".safetensors"]) == 2
    async with Stack.start(tmp_path) as stack:
        stack.hub.state.set_gate(BASE, "bob", "rejected")
        refused = {
            (EVE, BASE): (403, "model_gated"),
            (PENDING, BASE): (403, "access_pending"),
            (REJECTED, BASE): (403, "access_denied"),
            (BOB, BASE): (403, "access_denied"),
            (BOB, PRIVATE): (404, "model_not_found"),
            (EVE, PUBLIC): (403, "model_gated"),  # by way of its base
        }
        for (token, model), expected in refused.items():
            answer = await stack.chat(model, token)
            assert (answer.status, answer.code) == expected
            pinned = await stack.chat(stack.backend.sha(model), token)  # the Hub's client would not even ask
            assert (pinned.status, pinned.code) == expected
        assert (await stack.backend.hello()).engines == ()
        assert stack.recorder.of(download=True) == []
        assert (await stack.chat(PRIVATE, ALICE)).status == 200
        assert stack.recorder.of(download=True) == []  # it was on the disk indeed
    assert sorted((tmp_path / "store").glob("[!.]*/*/*/*")) == stored


async def test_row_32_the_commit_that_was_checked_is_loaded_and_served(tmp_path: Path) -> None:
    """`main` moves when the backend begins to download: what was authorized is fetched and answers."""
    async with Stack.start(tmp_path) as stack:
        state = stack.hub.state
        checked = stack.backend.sha(PRIVATE)
        moved: list[str] = []

        def move(heard: Heard) -> None:
            if heard.download and PRIVATE in heard.path and not moved:
                moved.append(state.add_commit(PRIVATE, {"adapter_model.safetensors": b"another's"}))

        stack.recorder.instead = move
        answer = await stack.chat(PRIVATE, ALICE)
        assert moved
        assert (answer.status, answer.json()["model"]) == (200, checked)
        (engine,) = (await stack.backend.hello()).engines
        assert engine.adapters == (checked,)
        listed = [one.path for one in stack.recorder.of(download=True) if PRIVATE in one.path]
        assert listed
        assert all(checked.partition("@")[2] in path for path in listed)
    assert [path.name for path in (tmp_path / "store" / PRIVATE).iterdir()] == [checked.partition("@")[2]]


async def asks(edge: Edge, name: str) -> RawAnswer:
    body = msgspec.json.encode({"model": name, "messages": MESSAGES})
    return await edge.ask("POST", CHAT, BOB, [("X-Request-Id", "the-same-id")], body)


async def looks(edge: Edge, name: str) -> RawAnswer:
    return await edge.ask("GET", f"/v1/models/{name}", BOB, [("X-Request-Id", "the-same-id")])


@pytest.mark.inside
@pytest.mark.parametrize("ask", [asks, looks])
@pytest.mark.parametrize("suffix", ["", "@" + "a" * 40])
@pytest.mark.parametrize("loaded", [False, True])
async def test_row_27_private_and_missing_cost_the_same(
    tmp_path: Path, ask: Callable[[Edge, str], Awaitable[RawAnswer]], suffix: str, *, loaded: bool
) -> None:
    """The same bytes, no Server-Timing, the same questions in order, and line by line the same code runs."""
    with Recorder().listening() as recorder:
        async with Edge.start(tmp_path) as edge:
            if loaded:
                assert (await edge.chat(PRIVATE, ALICE)).status == 200
            await ask(edge, "alice/another")  # bob is known, and every lazy part has run once
            seen = []
            # Asked anew, and then remembered; in both orders, so that being first tells nothing.
            for name in (PRIVATE, MISSING, MISSING, PRIVATE):
                recorder.heard.clear()
                with traced() as lines:
                    answer = await ask(edge, name + suffix)
                assert (answer.status, answer.code) == (404, "model_not_found")
                assert answer.header("Server-Timing") is None
                heard = [str(one).replace(name, "{name}") for one in recorder.heard]
                seen.append((plain(answer, name), heard, lines))
    private, missing, missing_again, private_again = seen
    assert (len(private[1]), len(private_again[1])) == (1, 0)
    assert len(private[2]) > 100
    assert private == missing
    assert private_again == missing_again
    assert len(edge.backend.asked) == int(loaded)


ROUNDS = 4000


@pytest.mark.long("timing")
@pytest.mark.parametrize("remembered", [False, True])
async def test_row_27_private_and_missing_take_the_same_time(
    tmp_path: Path, *, remembered: bool, record_property: Callable[[str, object], None]
) -> None:
    """The medians of the two refusals' times are within 10% of each other, in rounds that are mixed."""
    settings = {
        "hub": {"denial_ttl": 300 if remembered else 1e-6},
        "limits": {"requests_per_minute": 10**9},
    }
    async with Edge.start(tmp_path, settings) as edge:
        assert (await edge.chat(PRIVATE, ALICE)).status == 200
        rng, client = Random(27), Client(edge.port)  # noqa: S311 - must be repeatable
        times: dict[str, list[float]] = {PRIVATE: [], MISSING: []}
        for number in range(ROUNDS):
            for name in rng.sample((PRIVATE, MISSING), 2):
                body = {"model": name, "messages": MESSAGES}
                began = perf_counter()
                answer = await client.ask("POST", CHAT, BOB, "the-same-id", body)
                times[name].append(perf_counter() - began)
                assert (answer.status, answer.code) == (404, "model_not_found"), number
        await client.close()
    ratio = median(times[PRIVATE]) / median(times[MISSING])
    record_property("private_to_missing", ratio)
    print(f"median of private / median of missing: {ratio:.3f}")  # noqa: T201 - shown by pytest -s
    assert 0.9 < ratio < 1.1


async def test_row_33_each_identity_has_a_salt_of_its_own(edge: Edge) -> None:
    """The engine's prefix cache is keyed with a salt that follows the identity, and no caller chooses it."""
    edge.hub.state.add_token("hf_another_of_bobs", edge.hub.state.catalog.tokens[BOB])
    for token in (ALICE, BOB, BOB, "hf_another_of_bobs", "hf_demo_service"):
        assert (await edge.chat(token=token)).status == 200
    alice, bob, again, other_token, service = [sent.json()["cache_salt"] for sent in edge.engine.requests]
    assert bob == again == other_token
    assert len({alice, bob, service}) == 3
    assert (await edge.chat(token=ALICE, cache_salt=bob)).status == 400


async def test_row_34_nobody_sees_what_another_loaded(edge: Edge) -> None:
    """Neither list nor look-up tells bob of alice's adapter, and the engine is never asked for its own."""
    for model in (PRIVATE, PUBLIC):  # the second, bob may read, and yet it is not his to see that she does
        assert (await edge.chat(model, ALICE)).status == 200
    lists = {token: (await edge.ask("GET", "/v1/models", token)).body for token in (ALICE, BOB)}
    assert PRIVATE.encode() in lists[ALICE]
    assert msgspec.json.decode(lists[BOB])["data"] == []
    assert (await edge.ask("GET", f"/v1/models/{PRIVATE}", BOB)).status == 404
    assert [sent.target for sent in edge.engine.requests] == [CHAT, CHAT]
