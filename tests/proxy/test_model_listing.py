"""`GET /v1/models`: what this caller may use now, and never what others have loaded."""

import pytest

from tests.cases import each
from tests.fakes.running_proxy import ALICE, BASE, BOB, MISSING, PRIVATE, PUBLIC, Edge
from tests.proxy.conftest import StartEdge

EVE = "hf_demo_eve"


async def names(edge: Edge, token: str) -> list[str]:
    """The ids that the SDK lists."""
    return [model.id async for model in edge.sdk(token).models.list()]


async def test_nobody_sees_what_others_loaded(edge: Edge) -> None:
    """What a caller was granted is in their list, and in nobody else's."""
    assert await names(edge, ALICE) == []
    for model in (PRIVATE, PUBLIC, BASE):
        assert (await edge.chat(model, ALICE)).status == 200
    assert sorted(await names(edge, ALICE)) == sorted([PRIVATE, PUBLIC, BASE])
    assert await names(edge, BOB) == []
    await edge.chat(PUBLIC, BOB)
    assert await names(edge, BOB) == [PUBLIC]


async def test_what_was_refused_is_not_listed(edge: Edge) -> None:
    """Asking for a model does not put it on the list."""
    for model in (PRIVATE, MISSING):
        await edge.chat(model, BOB)
    assert await names(edge, BOB) == []


async def test_configured_models_and_aliases(start_edge: StartEdge) -> None:
    """The operator's own models and aliases are listed to those who may read them."""
    models = {"allow": ["demo/*", "alice/*", BASE, PRIVATE], "aliases": {"gpt-4o": PUBLIC, "pirate": PRIVATE}}
    edge = await start_edge({"models": models})
    assert await names(edge, ALICE) == [BASE, PRIVATE, "gpt-4o", "pirate"]
    assert await names(edge, BOB) == [BASE, "gpt-4o"]
    assert await names(edge, EVE) == ["gpt-4o"]


async def test_a_model_is_listed_while_access_holds(start_edge: StartEdge) -> None:
    """When access is taken away the model leaves the list with the answer's life."""
    edge = await start_edge({"hub": {"access_ttl": 0.001}})
    await edge.chat(BASE, BOB)
    assert await names(edge, BOB) == [BASE]
    edge.hub.state.set_gate(BASE, "bob", "rejected")
    assert await names(edge, BOB) == []


@pytest.mark.parametrize("suffix", ["", "@main"])
async def test_one_model_is_looked_up_by_the_sdk(edge: Edge, suffix: str) -> None:
    """The SDK writes the slash as `%2F`; the answer is the pinned name."""
    found = await edge.sdk(BOB).models.retrieve(PUBLIC + suffix)
    assert (found.id, found.object, found.owned_by) == (edge.at(PUBLIC), "model", "demo")
    assert edge.engine.requests == []
    assert edge.backend.asked == []


@each(
    ("target", "status", "code"),
    [
        (PRIVATE, 404, "model_not_found"),
        (MISSING, 404, "model_not_found"),
        ("demo%2fdisabled-lora", 403, "access_denied"),
        ("other/model", 403, "model_not_allowed"),
        ("..%2f..%2fpause", 400, "invalid_request"),
        ("a%252fb", 400, "invalid_request"),
        ("a%2fb%0a", 400, "invalid_request"),
        ("llama", 404, "model_not_found"),
        ("~llama", 400, "invalid_request"),
    ],
)
async def test_looking_up_what_is_not_theirs(edge: Edge, target: str, status: int, code: str) -> None:
    """A look-up is refused as a completion would be."""
    answer = await edge.ask("GET", f"/v1/models/{target}", BOB)
    assert (answer.status, answer.code) == (status, code)


async def test_an_alias_is_looked_up(start_edge: StartEdge) -> None:
    """An alias leads to the pinned name of what it stands for."""
    edge = await start_edge({"models": {"allow": ["demo/*"], "aliases": {"gpt-4o": PUBLIC}}})
    assert (await edge.sdk(BOB).models.retrieve("gpt-4o")).id == edge.at(PUBLIC)
    assert (await edge.chat("gpt-4o", BOB)).json()["model"] == edge.at(PUBLIC)


async def test_a_name_of_another_providers_is_asked_of_nobody(edge: Edge) -> None:
    """404 as OpenAI's, on the list and in a body, and told how models are named; the Hub hears nothing."""
    await edge.ask("GET", "/v1/models", BOB)
    seen = len(edge.hub_calls())
    for answer in (await edge.ask("GET", "/v1/models/gpt-4o", BOB), await edge.chat("gpt-4o", BOB)):
        assert (answer.status, answer.code) == (404, "model_not_found")
        assert "org/name" in answer.json()["error"]["message"]
    assert len(edge.hub_calls()) == seen
    assert edge.engine.requests == []


async def test_lists_and_roots_as_clients_write_them(edge: Edge) -> None:
    """A slash behind the list is no other list, and whether anybody is there needs no token."""
    plain, slashed = [await edge.ask("GET", path, BOB) for path in ("/v1/models", "/v1/models/")]
    assert (slashed.status, slashed.body) == (200, plain.body)
    root = await edge.ask("HEAD", "/", None)
    assert (root.status, root.body) == (200, b"")
    assert (await edge.ask("GET", "/", None)).status == 404
