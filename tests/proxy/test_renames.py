"""The whole proxy, while accounts on the Hub change their names."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from hubgate.demo.accounts import hub_id
from hubgate.demo.catalog import Token, User
from hubgate.proxy.auth import name_book
from hubgate.proxy.settings import ProxySettings
from hubgate.runtime.config import ConfigError, load
from tests.fakes.running_proxy import ALICE, BOB, Edge
from tests.proxy.conftest import StartEdge

THIEF = "hf_demo_thief"
NO = "caller_not_allowed"


def reload(edge: Edge, **sections: Any) -> None:
    """Do what SIGHUP does, with changed sections: the Hub is asked anew about everybody."""
    settings = yaml.safe_load(edge.config.read_text())
    edge.config.write_text(yaml.safe_dump({**settings, **sections}))
    edge.proxy.reloader.reload(lambda: load(ProxySettings, edge.config))


def rename(edge: Edge, old: str, new: str) -> None:
    """Rename an account; what the proxy heard of it before is over."""
    edge.hub.state.rename_account(old, new)
    reload(edge)


def take(edge: Edge, name: str, **orgs: str) -> None:
    """Register somebody else, under a name that is free now."""
    edge.hub.state.add_user(name, User(fullname="Somebody else", orgs=orgs))
    edge.hub.state.add_token(THIEF, Token(user=name, name="laptop"))


@asynccontextmanager
async def restarted(edge: Edge) -> AsyncIterator[Edge]:
    """The same proxy after its end, with the configuration and the files that it left."""
    await edge.stop()
    async with edge.twin(audit={"path": str(edge.settings.audit.path)}) as again:
        yield again


async def seen(edge: Edge, *tokens: str) -> list[str]:
    """What becomes of each caller: `ok` with the limit that counts, or the code."""
    found = []
    for token in tokens:
        answer = await edge.ask("GET", "/v1/models", token)
        limit = answer.header("x-ratelimit-limit-requests")
        found.append(f"ok {limit}" if answer.status == 200 else answer.code)
    return found


async def test_row_52_a_block_is_not_escaped_by_a_new_name(start_edge: StartEdge) -> None:
    """Whether it is taken before the block or after it; nor by taking the name over; restarts included."""
    edge = await start_edge()
    assert await seen(edge, ALICE, BOB) == ["ok 600", "ok 600"]
    rename(edge, "alice", "alicia")
    assert await seen(edge, ALICE) == ["ok 600"]
    reload(edge, callers={"anyone": True, "block": {"users": ["alice", "bob"]}})
    rename(edge, "bob", "robert")
    take(edge, "bob")
    assert await seen(edge, ALICE, BOB, THIEF) == [NO, NO, NO]
    async with restarted(edge) as again:
        assert await seen(again, ALICE, BOB, THIEF) == [NO, NO, NO]


async def test_row_52_a_freed_name_inherits_nothing(start_edge: StartEdge) -> None:
    """No place among the callers and no limits: those stay with whoever had the name; restarts included."""
    numbers = {"requests_per_minute": 5000}
    lists = {
        "callers": {"users": ["alice", "bob"]},
        "limits": {"overrides": {"users": {"alice": numbers}, "orgs": {"acme": numbers}}},
    }
    edge = await start_edge(lists)
    assert await seen(edge, ALICE, BOB) == ["ok 5000", "ok 600"]
    rename(edge, "alice", "alicia")
    take(edge, "alice")
    assert await seen(edge, ALICE, THIEF) == ["ok 5000", NO]
    async with restarted(edge) as again:
        assert await seen(again, ALICE, THIEF, BOB) == ["ok 5000", NO, "ok 600"]
        assert await again.metric("hubgate_name_conflicts_total", kind="user") == 1
    records = await edge.records(2, "auth.denied")
    assert {(record["user"], record["reason"]) for record in records} == {("alice", NO)}


async def test_row_52_an_organization_is_its_id(start_edge: StartEdge) -> None:
    """Members stay listed when it is renamed; nobody is by an organization that takes the name."""
    edge = await start_edge({"callers": {"orgs": ["acme"]}})
    assert await seen(edge, ALICE) == ["ok 600"]
    rename(edge, "acme", "acme-two")
    take(edge, "eve-two", acme="admin")
    assert await seen(edge, ALICE, THIEF) == ["ok 600", NO]
    reload(edge, callers={"anyone": True, "block": {"orgs": ["acme-two"]}})
    rename(edge, "acme-two", "acme-three")
    assert await seen(edge, ALICE, THIEF) == [NO, "ok 600"]


async def test_a_name_that_a_reload_lists_is_kept(start_edge: StartEdge) -> None:
    """From the first request after it, like those that were there at the start."""
    edge = await start_edge()
    assert await seen(edge, ALICE, BOB) == ["ok 600", "ok 600"]
    reload(edge, callers={"users": ["alice"]})
    assert await seen(edge, ALICE, BOB) == ["ok 600", NO]
    rename(edge, "alice", "alicia")
    assert await seen(edge, ALICE) == ["ok 600"]


async def test_an_id_is_enough(start_edge: StartEdge) -> None:
    """It is written as the Hub gives it, with the name or without."""
    alice, bob = hub_id("user", "alice"), hub_id("user", "bob")
    edge = await start_edge({"callers": {"users": [f"somebody={alice}", f"id:{bob}"]}})
    assert await seen(edge, ALICE, BOB, "hf_demo_eve") == ["ok 600", "ok 600", NO]
    reload(edge, callers={"anyone": True, "block": {"users": [f"somebody={alice}", f"id:{bob}"]}})
    assert await seen(edge, ALICE, BOB, "hf_demo_eve") == [NO, NO, "ok 600"]


async def test_a_cached_identity_is_renamed_when_its_time_is_over(start_edge: StartEdge) -> None:
    """A rename is no revocation: it shows after `hub.identity_ttl`, in the caller's name in the audit."""
    edge = await start_edge({"callers": {"users": ["alice"]}})
    await edge.ask("GET", "/v1/models")
    edge.hub.state.rename_account("alice", "alicia")
    await edge.ask("GET", "/v1/models")
    reload(edge)
    await edge.ask("GET", "/v1/models")
    records = await edge.records(3, "request.done")
    assert [record["user"] for record in records] == ["alice", "alice", "alicia"]
    assert len({record["sub"] for record in records}) == 1


async def test_damaged_names_stop_the_start(start_edge: StartEdge, tmp_path: Path) -> None:
    """A proxy that does not know any more whose the names are asks the operator, and says where."""
    path = name_book.beside(tmp_path / "audit.jsonl")
    write(path, "surprise\n")
    with pytest.raises(ConfigError) as caught:
        await start_edge({"callers": {"users": ["alice"]}})
    (fault,) = caught.value.faults
    assert fault.startswith(f"audit.path: {path}: line 1 is damaged")


def write(path: Path, text: str) -> None:
    path.write_text(text)
