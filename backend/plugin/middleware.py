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
from hubgate.backend.plugin.traffic import Traffic
from hubgate.wire.control_api import GRANT_HEADER
from hubgate.wire.endpoints import FORWARDED
from hubgate.wire.keyfile import KeyFile
from hubgate.wire.keys import load_verifying
from hubgate.wire.seal import Grant

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_HEADER = GRANT_HEADER.lower().encode()
_KINDS = {403: "permission_error", 404: "not_found_error"}


def verifier_of_environment() -> GrantVerifier:
    """The verifier of the engine that this process is. Raises when it cannot know: then nothing starts."""
    identity = read(Path(os.environ[VARIABLE]))
    proxies = KeyFile(Path(identity.proxies_file), load_verifying, time.monotonic)
    return GrantVerifier(identity, proxies, time.time)


class GrantMiddleware:
    """Default deny, from the headers alone, on every path and every kind of connection.

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
        elif scope["path"] not in FORWARDED or scope["method"] != "POST":
            await _refuse(send, 404, "unknown_endpoint", "no such endpoint")
        else:
            with preparing(grant.sub):
                await self._use(grant.model, scope, receive, send)

    def _grant(self, scope: Scope) -> Grant | None:
        values = [value for name, value in scope["headers"] if name == _HEADER]
        if len(values) != 1:
            return None
        return self._verifier.believe(values[0].decode("latin-1"))

    async def _use(self, model: str, scope: Scope, receive: Receive, send: Send) -> None:
        state = scope["app"].state
        traffic: Traffic = (
            state.hubgate_traffic
        )  # set by hubgate.backend.plugin.adapter_routes before any request
        with bound(None):
            held = _holds(state.openai_serving_models, model)
        if not held or not traffic.admits(model):
            await _refuse(send, 421, "not_loaded", "this engine does not hold the model")
            return
        with traffic.request(model), bound(model) as binding:
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


def _holds(models: Any, model: str) -> bool:
    """vllm/entrypoints/openai/models/serving.py: `OpenAIServingModels`."""
    return model in models.lora_requests or bool(models.is_base_model(model))


async def _refuse(send: Send, status: int, code: str, message: str) -> None:
    kind = _KINDS.get(status, "invalid_request_error")
    error = {"message": message, "type": kind, "param": None, "code": code}
    body = msgspec.json.encode({"error": error})
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        # The body of the request was not read, or not to its end; the connection cannot be used again.
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
