"""The supervisor's routes, for adapters and for sleep, with stand-ins for vLLM's models and its engine."""

import asyncio
import importlib
import sys
from argparse import Namespace
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from hubgate.backend.plugin import grammars, prompts
from hubgate.backend.plugin.binding import NotGrantedError, bound
from hubgate.backend.plugin.shares import running
from tests.backend.plugin.engine_identity import ADAPTER, BASE


@dataclass
class LoadLoRAAdapterRequest:
    """As in vllm/entrypoints/serve/lora/protocol.py."""

    lora_name: str
    lora_path: str


class ErrorResponse:
    """As in vllm/entrypoints/serve/engine/protocol.py, as far as it is read."""

    def __init__(self, message: str) -> None:
        self.error = SimpleNamespace(message=message)


class Models:
    """As vllm/entrypoints/openai/models/serving.py keeps adapters."""

    def __init__(self) -> None:
        self.lora_requests: dict[str, Any] = {}
        self.is_base_model = lambda name: name == BASE
        self.failure: str | None = None
        self.during: Callable[[], object] = lambda: None

    async def load_lora_adapter(self, request: LoadLoRAAdapterRequest) -> ErrorResponse | str:
        await asyncio.sleep(0)
        self.during()
        if self.failure is not None:
            return ErrorResponse(self.failure)
        assert request.lora_name not in self.lora_requests
        self.lora_requests[request.lora_name] = SimpleNamespace(
            lora_int_id=len(self.lora_requests) + 1, path=request.lora_path
        )
        return "Success"


def config(*, seats: int, active: int | None = None, cores: int = 1, policy: str = "priority") -> Any:
    """As vllm/config/vllm.py, as far as the gate's width is read from it."""
    return SimpleNamespace(
        scheduler_config=SimpleNamespace(max_num_seqs=seats, max_num_active_seqs=active, policy=policy),
        lora_config=SimpleNamespace(max_loras=2),
        parallel_config=SimpleNamespace(data_parallel_size=cores),
        model_config=SimpleNamespace(max_model_len=4096),
    )


class Server:
    """A FastAPI application with the plugin's routes, and what stands behind them."""

    def __init__(self, routes: Any) -> None:
        self.routes = routes
        self.app = FastAPI()
        self.models = Models()
        self.removed: list[int] = []
        self.asleep = 0  # the level
        self.wakes = True
        self.app.state.openai_serving_models = self.models
        self.app.state.engine_client = SimpleNamespace(
            remove_lora=self._remove,
            sleep=self._sleep,
            wake_up=self._wake_up,
            get_supported_tasks=self._tasks,
        )
        routes.attach_router(self.app)
        self.traffic = self.app.state.hubgate_traffic
        transport = httpx.ASGITransport(app=self.app)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://engine")

    async def _remove(self, number: int) -> bool:
        self.removed.append(number)
        return True

    async def _tasks(self) -> tuple[str, ...]:
        return ("embed", "token_embed")

    async def _sleep(self, level: int = 1) -> None:
        assert not self.models.lora_requests
        assert not self.traffic.admits(BASE)
        self.asleep = level

    async def _wake_up(self, tags: list[str] | None = None) -> bool:
        assert tags is None, "all of it"
        assert not self.traffic.admits(BASE)
        if self.wakes:
            self.asleep = 0
        return self.wakes

    async def post(self, where: str, /, **body: Any) -> tuple[int, Any]:
        response = await self.client.post(where, json=body)
        return response.status_code, response.json()


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    """Without vLLM: importing it takes longer than all of these tests."""
    stand_ins: dict[str, dict[str, Any]] = {
        "vllm": {},
        "vllm.entrypoints.serve.engine.protocol": {"ErrorResponse": ErrorResponse},
        "vllm.entrypoints.serve.lora.protocol": {"LoadLoRAAdapterRequest": LoadLoRAAdapterRequest},
    }
    for name, content in stand_ins.items():
        module = ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "hubgate.backend.plugin.adapter_routes", raising=False)
    module = importlib.import_module("hubgate.backend.plugin.adapter_routes")
    made = Server(module.AdapterRoutes())
    async with made.client:
        yield made
    monkeypatch.delitem(sys.modules, "hubgate.backend.plugin.adapter_routes")


async def test_the_registry_of_models_is_bound_before_the_first_request(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The supervisor loads into it as before; a request sees its own model alone."""
    state = server.app.state
    # What else is set up then is vLLM's own, see test_bounds_in_vllm.py.
    monkeypatch.setattr(grammars, "admit_in", lambda _: None)
    monkeypatch.setattr(prompts, "bound_prompts", lambda _: None)
    monkeypatch.setattr(running, "watch", lambda: None)
    state.engine_client.renderer = None
    state.engine_client.vllm_config = config(seats=32)
    await server.routes.init_state(state.engine_client, state, Namespace())
    assert server.app.state.hubgate_gate.status().seats == 32
    with bound(None):
        assert await server.post("/hubgate/adapters", name=ADAPTER, path="/store/a") == (
            200,
            {"loaded": True},
        )
    with bound(ADAPTER):
        assert ADAPTER in server.models.lora_requests
    with bound(BASE), pytest.raises(NotGrantedError):
        server.models.lora_requests.get(ADAPTER)
    with bound(None):
        assert await server.post("/hubgate/adapters/unload", name=ADAPTER) == (200, {"unloaded": True})
        assert not server.models.lora_requests


async def test_an_adapter_is_loaded_once(server: Server) -> None:
    """Again is fine, also at the same time."""
    answers = await asyncio.gather(
        *(server.post("/hubgate/adapters", name=ADAPTER, path="/store/a") for _ in range(3))
    )
    assert sorted(answers, key=str) == [
        (200, {"loaded": False}),
        (200, {"loaded": False}),
        (200, {"loaded": True}),
    ]
    assert server.models.lora_requests[ADAPTER].path == "/store/a"
    assert server.traffic.status().models[ADAPTER].in_flight == 0


@pytest.mark.parametrize(
    "body",
    [
        {"name": "image", "path": "/a"},
        {"name": "alice/lora", "path": "/a"},
        {"name": "alice/lora@main", "path": "/a"},
        {"name": ADAPTER, "path": "alice/lora"},
        {"name": ADAPTER, "path": "./a"},
        {"name": ADAPTER, "path": ""},
        {"name": ADAPTER},
        {"name": ADAPTER, "path": "/a", "load_inplace": True},
        {},
    ],
)
async def test_only_exact_names_and_absolute_paths_are_taken(server: Server, body: dict[str, Any]) -> None:
    """A repo id in the place of a path would be downloaded, and a bare name could shadow others."""
    assert (await server.post("/hubgate/adapters", **body))[0] == 400
    assert not server.models.lora_requests


async def test_what_vllm_says_reaches_the_supervisor(server: Server) -> None:
    """It goes to the log, not to callers."""
    server.models.failure = "No such file /store/a"
    status, answer = await server.post("/hubgate/adapters", name=ADAPTER, path="/store/a")
    assert (status, answer["error"]["message"]) == (500, "No such file /store/a")


async def test_an_adapter_on_its_way_is_something_in_flight(server: Server) -> None:
    """So that an engine which hangs over it is not taken for an idle one."""
    seen: list[int] = []
    server.models.during = lambda: seen.append(server.traffic.status().in_flight)
    remove = server.app.state.engine_client.remove_lora

    async def removing(number: int) -> bool:
        server.models.during()
        return bool(await remove(number))

    server.app.state.engine_client.remove_lora = removing
    await server.post("/hubgate/adapters", name=ADAPTER, path="/store/a")
    await server.post("/hubgate/adapters/unload", name=ADAPTER)
    assert seen == [1, 1]
    assert server.traffic.status().in_flight == 0


async def test_unloading_takes_name_and_weights(server: Server) -> None:
    """The route of vLLM itself forgets the name only."""
    await server.post("/hubgate/adapters", name=ADAPTER, path="/store/a")
    with server.traffic.request(ADAPTER):
        pass
    assert await server.post("/hubgate/adapters/unload", name=ADAPTER) == (200, {"unloaded": True})
    assert server.removed == [1]
    assert not server.models.lora_requests
    assert server.traffic.status().models == {}
    assert await server.post("/hubgate/adapters/unload", name=ADAPTER) == (200, {"unloaded": False})
    assert (await server.post("/hubgate/adapters/unload", name="image"))[0] == 400


async def test_an_unload_that_fails_changes_nothing(server: Server) -> None:
    """Half gone is not gone: the supervisor believes that it is there, and tries again."""
    await server.post("/hubgate/adapters", name=ADAPTER, path="/store/a")
    remove = server.app.state.engine_client.remove_lora

    async def fail(_: int) -> bool:
        raise RuntimeError("the core does not answer")

    server.app.state.engine_client.remove_lora = fail
    with pytest.raises(RuntimeError):
        await server.post("/hubgate/adapters/unload", name=ADAPTER)
    assert ADAPTER in server.models.lora_requests
    assert server.traffic.admits(ADAPTER)
    server.app.state.engine_client.remove_lora = remove
    assert await server.post("/hubgate/adapters/unload", name=ADAPTER) == (200, {"unloaded": True})


async def test_unloading_waits_for_the_last_request(server: Server) -> None:
    """No new one is let in meanwhile, and the weights stay until it is done."""
    await server.post("/hubgate/adapters", name=ADAPTER, path="/store/a")
    with server.traffic.request(ADAPTER):
        unloading = asyncio.create_task(server.post("/hubgate/adapters/unload", name=ADAPTER))
        while server.traffic.admits(ADAPTER):  # noqa: ASYNC110 - it is told by nothing else
            await asyncio.sleep(0)
        await server.client.get("/hubgate/status")
        assert server.removed == []
    assert (await unloading)[0] == 200
    assert server.removed == [1]


async def test_others_are_loaded_while_one_waits_for_its_last_request(server: Server) -> None:
    """A long answer of one caller holds nobody else up."""
    await server.post("/hubgate/adapters", name=ADAPTER, path="/store/a")
    with server.traffic.request(ADAPTER):
        unloading = asyncio.create_task(server.post("/hubgate/adapters/unload", name=ADAPTER))
        while server.traffic.admits(ADAPTER):  # noqa: ASYNC110 - it is told by nothing else
            await asyncio.sleep(0)
        other = await server.post("/hubgate/adapters", name="bob/lora@" + "b" * 40, path="/store/b")
        assert other == (200, {"loaded": True})
        assert not unloading.done()
    assert (await unloading)[0] == 200


async def test_unloading_gives_up_on_what_does_not_end(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then everything is as before."""
    monkeypatch.setattr("hubgate.backend.plugin.adapter_routes.DRAIN", 0.1)
    await server.post("/hubgate/adapters", name=ADAPTER, path="/store/a")
    with server.traffic.request(ADAPTER):
        assert (await server.post("/hubgate/adapters/unload", name=ADAPTER))[0] == 409
    assert server.traffic.admits(ADAPTER)
    assert ADAPTER in server.models.lora_requests


async def test_what_is_drained_lets_nothing_in(server: Server) -> None:
    """The status says so; asking again changes nothing."""
    await server.post("/hubgate/drain")
    await server.post("/hubgate/drain")
    answer = (await server.client.get("/hubgate/status")).json()
    assert answer == {
        "draining": True,
        "in_flight": 0,
        "sent": 0,
        "models": {},
        "queue": {"seats": 0, "taken": 0, "waiting": 0, "longest_wait": 0.0},
        "tasks": ["embed", "token_embed"],
    }
    assert not server.traffic.admits(ADAPTER)


async def test_a_drained_engine_sleeps_without_adapters_and_wakes_up(server: Server) -> None:
    """At level 1, which keeps the weights; requests are let in again when all of it is awake."""
    await server.post("/hubgate/adapters", name=ADAPTER, path="/store/a")
    await server.post("/hubgate/drain")
    assert await server.post("/hubgate/sleep") == (200, {"asleep": True})
    assert (server.asleep, server.removed, server.models.lora_requests) == (1, [1], {})
    assert server.traffic.status().models == {}
    assert not server.traffic.admits(BASE)
    assert await server.post("/hubgate/wake") == (200, {"asleep": False})
    assert server.asleep == 0
    assert server.traffic.admits(BASE)


async def test_only_a_drained_engine_sleeps(server: Server) -> None:
    """VLLM would abort requests in flight; and what was not drained could get new ones meanwhile."""
    assert (await server.post("/hubgate/sleep"))[0] == 409
    with server.traffic.request(BASE):
        await server.post("/hubgate/drain")
        assert (await server.post("/hubgate/sleep"))[0] == 409
    assert server.asleep == 0
    assert (await server.post("/hubgate/sleep"))[0] == 200


async def test_what_wakes_up_in_part_lets_nothing_in(server: Server) -> None:
    """The supervisor ends it."""
    await server.post("/hubgate/drain")
    await server.post("/hubgate/sleep")
    server.wakes = False
    assert (await server.post("/hubgate/wake"))[0] == 500
    assert not server.traffic.admits(BASE)


async def test_an_engine_whose_adapters_stay_does_not_sleep(server: Server) -> None:
    """Nor does it forget that they are there."""

    async def fail(_: int) -> bool:
        raise RuntimeError("the core does not answer")

    await server.post("/hubgate/adapters", name=ADAPTER, path="/store/a")
    await server.post("/hubgate/drain")
    server.app.state.engine_client.remove_lora = fail
    with pytest.raises(RuntimeError):
        await server.post("/hubgate/sleep")
    assert server.asleep == 0
    assert ADAPTER in server.models.lora_requests


async def test_the_gate_is_as_wide_as_the_scheduler(server: Server) -> None:
    """With several engine cores behind one server, as all of them; what is not to run at once counts."""
    open_gate = sys.modules["hubgate.backend.plugin.adapter_routes"].open_gate
    gate = server.app.state.hubgate_gate
    for given, seats, by_priority in (
        (config(seats=64), 64, True),
        (config(seats=64, active=8), 8, True),
        (config(seats=64, cores=4, policy="fcfs"), 256, False),
    ):
        open_gate(gate, given)
        assert (gate.status().seats, gate._by_priority) == (seats, by_priority)
