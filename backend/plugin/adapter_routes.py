"""`vllm.endpoint_plugins`: the supervisor's routes, for adapters and for sleep.

Only control grants reach them, see `hubgate.backend.plugin.middleware`. vLLM's own routes stay closed:
those for adapters take any path and any name, and their unload leaves the weights in the engine; those
for sleep come with VLLM_SERVER_DEV_MODE alone, which opens others that run code.
"""

import asyncio
import os
import time
from argparse import Namespace
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from fastapi import FastAPI, Request, Response
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.lora.protocol import LoadLoRAAdapterRequest

from hubgate.backend.plugin import engine_tls, grammars, prompts
from hubgate.backend.plugin.binding import bind
from hubgate.backend.plugin.engine_identity import VARIABLE
from hubgate.backend.plugin.engine_identity import read as read_identity
from hubgate.backend.plugin.first_fault import stop_at_first_fault
from hubgate.backend.plugin.shares import running
from hubgate.backend.plugin.shares.gate import Gate
from hubgate.backend.plugin.traffic import Traffic
from hubgate.wire import endpoints
from hubgate.wire.control_api import LoadAdapter, UnloadAdapter
from hubgate.wire.repo import InvalidRepoError, RepoRef

DRAIN = 20.0  # seconds that an unload waits for requests in flight
POLL = 0.05  # seconds

Command = TypeVar("Command", LoadAdapter, UnloadAdapter)


class AdapterRoutes:
    """Satisfies vllm/plugins/endpoint_plugins/interface.py, `EndpointPlugin`."""

    name = "hubgate"
    required_tasks = None

    def __init__(self) -> None:
        self._traffic = Traffic(time.monotonic)
        self._gate = Gate(time.monotonic)
        self._lock = asyncio.Lock()  # loads and unloads in the order they came

    def attach_router(self, app: FastAPI) -> None:
        """Called once, before the server accepts connections, and behind vLLM's own routes."""
        stop_at_first_fault(app)
        if (path := os.environ.get(VARIABLE)) is not None:  # else the gate lets nothing start
            engine_tls.secure(read_identity(Path(path)))
        app.state.hubgate_traffic = self._traffic
        app.state.hubgate_gate = self._gate
        app.add_api_route(endpoints.LOAD_ADAPTER, self._load, methods=["POST"], response_model=None)
        app.add_api_route(endpoints.UNLOAD_ADAPTER, self._unload, methods=["POST"], response_model=None)
        app.add_api_route(endpoints.STATUS, self._status, methods=["GET"], response_model=None)
        app.add_api_route(endpoints.DRAIN, self._drain, methods=["POST"], response_model=None)
        app.add_api_route(endpoints.SLEEP, self._sleep, methods=["POST"], response_model=None)
        app.add_api_route(endpoints.WAKE, self._wake, methods=["POST"], response_model=None)

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:  # noqa: ARG002
        """Called once, when `state` has all that requests need, and before the first of them."""
        bind(state.openai_serving_models)
        grammars.admit_in(engine_client)
        prompts.bound_prompts(engine_client.renderer)
        running.watch()
        open_gate(self._gate, engine_client.vllm_config)

    async def _load(self, request: Request) -> Response:
        command = _read(await request.body(), LoadAdapter)
        if command is None or not os.path.isabs(command.path):  # noqa: PTH117  # nothing of it is asked
            return _error(400, "an adapter is named org/name@sha and lies in an absolute directory")
        models = request.app.state.openai_serving_models
        async with self._lock:
            if command.name in models.lora_requests:
                return _answer(200, {"loaded": False})
            wanted = LoadLoRAAdapterRequest(lora_name=command.name, lora_path=command.path)
            with self._traffic.order():
                result = await models.load_lora_adapter(wanted)
        if isinstance(result, ErrorResponse):
            return _error(500, result.error.message)
        self._traffic.touch(command.name)
        return _answer(200, {"loaded": True})

    async def _unload(self, request: Request) -> Response:
        command = _read(await request.body(), UnloadAdapter)
        if command is None:
            return _error(400, "an adapter is named org/name@sha")
        state = request.app.state
        loaded = state.openai_serving_models.lora_requests
        with self._traffic.refusing(command.name):
            self._gate.turn_away(command.name)
            # Not under the lock: others are loaded meanwhile.
            if command.name in loaded and not await self._drained(command.name):
                return _error(409, "requests for it are still in flight")
            async with self._lock:
                if command.name not in loaded:
                    return _answer(200, {"unloaded": False})
                await self._take_out(command.name, state)
        return _answer(200, {"unloaded": True})

    async def _take_out(self, name: str, state: Any) -> None:
        """The name first, then the weights: nobody can reach what is half gone."""
        loaded = state.openai_serving_models.lora_requests
        adapter = loaded.pop(name)
        try:
            with self._traffic.order():
                await state.engine_client.remove_lora(adapter.lora_int_id)
        except BaseException:
            loaded[name] = adapter  # half gone is not gone: the supervisor tries again
            raise
        self._traffic.forget(name)

    async def _drained(self, name: str) -> bool:
        end = time.monotonic() + DRAIN
        while self._traffic.in_flight(name):
            if time.monotonic() > end:
                return False
            await asyncio.sleep(POLL)
        return True

    async def _status(self, request: Request) -> Response:
        # Asked of the core once, and then remembered (vllm/v1/engine/async_llm.py).
        tasks = await request.app.state.engine_client.get_supported_tasks()
        status = msgspec.structs.replace(
            self._traffic.status(), tasks=tuple(tasks), queue=self._gate.status()
        )
        return _answer(200, status)

    async def _drain(self) -> Response:
        """Refuse new requests from now on; only a wake-up after a sleep lets them in again."""
        self._traffic.draining = True
        self._gate.turn_away()
        return _answer(200, self._traffic.status())

    async def _sleep(self, request: Request) -> Response:
        """Let go of all adapters and of the GPU's memory. Only a drained engine may.

        Level 1 of `EngineClient.sleep` (vllm/engine/protocol.py) keeps the weights in host memory and
        gives up the KV cache. The prefix, multimodal and encoder caches are reset before it
        (vllm/v1/engine/core.py, `_reset_caches`), those of a KV connector too, and the renderer's with it
        (vllm/v1/engine/async_llm.py). So after the wake-up nobody can hit what another caller left.
        """
        state = request.app.state
        async with self._lock:
            # vLLM would abort what is in flight, and answer with the part that there is.
            if not self._traffic.draining or self._traffic.status().in_flight:
                return _error(409, "only a drained engine may sleep")
            for name in list(state.openai_serving_models.lora_requests):
                await self._take_out(name, state)
            await state.engine_client.sleep(level=1)
        return _answer(200, {"asleep": True})

    async def _wake(self, request: Request) -> Response:
        """Take the memory back; new requests are let in once all of it is there."""
        async with self._lock:
            if not await request.app.state.engine_client.wake_up():
                return _error(500, "a part of it is still asleep")
            self._traffic.draining = False
        return _answer(200, {"asleep": False})


def open_gate(gate: Gate, config: Any) -> None:
    """As wide as vLLM's scheduler (vllm/config/scheduler.py, lora.py), once for each of its engine cores.

    Which of these cores a request goes to is not known before: adapters have the slots of one.
    """
    scheduler, lora = config.scheduler_config, config.lora_config
    seats = scheduler.max_num_active_seqs or scheduler.max_num_seqs
    gate.open(
        seats=seats * config.parallel_config.data_parallel_size,
        adapters=lora.max_loras if lora is not None else 0,
        context=config.model_config.max_model_len,
        by_priority=scheduler.policy == "priority",
    )


def _read(body: bytes, kind: type[Command]) -> Command | None:
    """The command, if it names an adapter at an exact sha; such a name is never anything else's."""
    try:
        command = msgspec.json.decode(body, type=kind)
        return command if RepoRef.parse(command.name).pinned else None
    except (msgspec.DecodeError, UnicodeDecodeError, InvalidRepoError):
        return None


def _error(status: int, message: str) -> Response:
    return _answer(status, {"error": {"message": message, "type": "control", "param": None, "code": None}})


def _answer(status: int, content: object) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")
