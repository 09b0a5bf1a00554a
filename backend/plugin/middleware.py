"""The gate before vLLM: ASGI middleware that lets nothing in without a grant, nor for another model.

vLLM adds it last, so it is the outermost layer but for Starlette's error page. The SageMaker
bootstrap, which runs later, puts only a "throttle" before it, and that comes from environment
variables which an engine does not get (model_hosting_container_standards, middleware/core.py).
"""

import os
import time
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import msgspec

from hubgate.backend.plugin.binding import Binding, bound
from hubgate.backend.plugin.engine_identity import VARIABLE, read
from hubgate.backend.plugin.grant_verifier import GrantVerifier
from hubgate.backend.plugin.preparation import Prepared, preparing
from hubgate.backend.plugin.shares.gate import LONGEST, Gate, Refusal
from hubgate.backend.plugin.shares.running import watched
from hubgate.backend.plugin.traffic import Traffic
from hubgate.wire import cost
from hubgate.wire.control_api import (
    GRANT_HEADER,
    REQUEST_ID_HEADER,
    SHARE_USED,
    WAITED_HEADER,
    Places,
    PlacesRequest,
)
from hubgate.wire.cost import COST_HEADER, ONE, Cost
from hubgate.wire.endpoints import COUNTING, FORWARDED, PLACES
from hubgate.wire.keyfile import KeyFile
from hubgate.wire.keys import load_verifying
from hubgate.wire.seal import Grant

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_HEADER = GRANT_HEADER.lower().encode()
_COST = COST_HEADER.lower().encode()
_REQUEST_ID = REQUEST_ID_HEADER.lower().encode()
_WAITED = WAITED_HEADER.lower().encode()
# vllm/entrypoints/generate/base/serving.py, `PRIORITY_HEADER`. Nobody says it: see `grammars.admit_in`.
_PRIORITY = b"x-vllm-priority"
ASKED = 256 * 1024  # bytes of a question for places
_KINDS = {403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


def verifier_of_environment() -> GrantVerifier:
    """The verifier of the engine that this process is. Raises when it cannot know: then nothing starts."""
    identity = read(Path(os.environ[VARIABLE]))
    proxies = KeyFile(Path(identity.proxies_file), load_verifying, time.monotonic)
    return GrantVerifier(identity, proxies, time.time)


class GrantMiddleware:
    """Default deny, from the headers alone, on every path and every kind of connection.

    Who may come in waits for their share (`hubgate.backend.plugin.shares`) before anything of a body is read.
    Whether the body names the granted model is seen where vLLM looks it up: `hubgate.backend.plugin.binding`.
    """

    def __init__(self, app: App, verifier: GrantVerifier | None = None) -> None:
        self._app = Prepared(app)
        self._verifier = verifier or verifier_of_environment()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http":
                await self._http(scope, receive, send)
            case "lifespan":
                await self._app(scope, receive, send)
            case "websocket":
                await send({"type": "websocket.close", "code": 1008})
            case _:
                raise RuntimeError("an unknown kind of ASGI connection is not let in")

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        grant = self._grant(scope)
        if grant is None:
            await _refuse(send, 401, "invalid_grant", "no valid grant")
        elif grant.kind == "control":
            with bound(None):
                await self._app(scope, receive, send)
        elif scope["path"] == PLACES and scope["method"] == "POST":
            await _tell_places(scope["app"].state.hubgate_gate, receive, send)
        elif scope["path"] not in FORWARDED or scope["method"] != "POST":
            await _refuse(send, 404, "unknown_endpoint", "no such endpoint")
        else:
            with preparing(grant.sub):
                await self._use(grant, scope, receive, send)

    def _grant(self, scope: Scope) -> Grant | None:
        values = [value for name, value in scope["headers"] if name == _HEADER]
        if len(values) != 1:
            return None
        return self._verifier.believe(values[0].decode("latin-1"))

    async def _use(self, grant: Grant, scope: Scope, receive: Receive, send: Send) -> None:
        # Both are set by hubgate.backend.plugin.adapter_routes before any request.
        state = scope["app"].state
        traffic: Traffic = state.hubgate_traffic
        gate: Gate = state.hubgate_gate
        model, models = grant.model, state.openai_serving_models
        if not _lets_in(traffic, models, model):
            await _refuse_model(send)
            return
        with traffic.request(model, grant.sub):
            if scope["path"] in COUNTING:  # they run in this process alone, and take no seat
                await self._answer(model, scope, receive, send)
                return
            asked, size, request_id = _read_head(scope)
            if size is None:
                gathered = await gate.gather(receive)
                if gathered is None:
                    return
                receive, size = gathered, 0
            place = gate.place(grant, _adapter(models, model), asked, size)
            try:
                if not gate.enter(place):
                    entered = await gate.wait(place, model, receive, grant.patience or LONGEST, request_id)
                    if isinstance(entered, Refusal):
                        await _turn_away(_telling_wait(send, gate.waited(place)), entered)
                        return
                    if not _lets_in(traffic, models, model):
                        await _refuse_model(send)
                        return
                    receive, send = entered, _telling_wait(send, gate.waited(place))
                with watched(gate.running(place, asked)):
                    await self._answer(model, scope, receive, send)
            finally:
                gate.leave(place)

    async def _answer(self, model: str, scope: Scope, receive: Receive, send: Send) -> None:
        traffic: Traffic = scope["app"].state.hubgate_traffic
        with bound(model) as binding:
            try:
                await self._app(scope, receive, _settling(binding, traffic.counting(send)))
            except Exception:
                if not binding.unanswered:
                    raise
            if binding.unanswered:
                await _refuse(send, 403, "model_not_allowed", "the grant is not for the model in the body")


def _settling(binding: Binding, send: Send) -> Send:
    """The same `send` (ASGI), which passes nothing of an answer that the grant is not for."""

    async def settled(message: Message) -> None:
        if message["type"] == "http.response.start":
            binding.settle(message["status"])
        elif binding.refused:
            return
        await send(message)

    return settled


def _telling_wait(send: Send, seconds: float) -> Send:
    """The same `send` (ASGI), which tells the proxy how long the request has waited here."""

    async def telling(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (_WAITED, b"%.4f" % seconds)]
        await send(message)

    return telling


def _read_head(scope: Scope) -> tuple[Cost, int | None, str]:
    """What the request costs, the bytes of its body, if they are told, and its id. A priority goes."""
    headers = dict(scope["headers"])
    length, costs = headers.get(b"content-length", b""), headers.get(_COST)
    if _PRIORITY in headers:
        scope["headers"] = [pair for pair in scope["headers"] if pair[0] != _PRIORITY]
    told = ONE if costs is None else cost.read(costs)
    size = None if b"transfer-encoding" in headers else int(length) if length.isdigit() else 0
    return told, size, headers.get(_REQUEST_ID, b"").decode("latin-1")


async def _tell_places(gate: Gate, receive: Receive, send: Send) -> None:
    """Answer a `PlacesRequest`."""
    body, more = b"", True
    while more and len(body) <= ASKED:
        message = await receive()
        if message["type"] != "http.request":
            return
        body += message.get("body", b"")
        more = message.get("more_body", False)
    try:
        asked = msgspec.json.decode(body if len(body) <= ASKED else b"", type=PlacesRequest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        await _refuse(send, 400, "malformed", "no list of requests")
        return
    told = msgspec.json.encode(Places(places=gate.places(asked.requests)))
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(told)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": told})


def _lets_in(traffic: Traffic, models: Any, model: str) -> bool:
    """Whether this engine holds the model, and answers for it.

    vllm/entrypoints/openai/models/serving.py: `OpenAIServingModels`.
    """
    with bound(None):
        held = model in models.lora_requests or bool(models.is_base_model(model))
    return held and traffic.admits(model)


def _adapter(models: Any, model: str) -> str | None:
    """The model, if it is an adapter."""
    with bound(None):
        return model if model in models.lora_requests else None


async def _refuse_model(send: Send) -> None:
    await _refuse(send, 421, "not_loaded", "this engine does not hold the model")


async def _turn_away(send: Send, refusal: Refusal) -> None:
    if refusal.why == "gone":
        await _refuse_model(send)
    elif refusal.why == "late":
        message = "your share of this engine is used; others wait"
        await _refuse(send, 429, SHARE_USED, message, refusal.retry_after)


async def _refuse(send: Send, status: int, code: str, message: str, retry_after: int = 0) -> None:
    kind = _KINDS.get(status, "invalid_request_error")
    error: dict[str, Any] = {"message": message, "type": kind, "param": None, "code": code}
    body = msgspec.json.encode({"error": error})
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        # The body of the request was not read, or not to its end; the connection cannot be used again.
        (b"connection", b"close"),
    ]
    if retry_after:
        headers.append((b"retry-after", str(retry_after).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
