"""The gate before vLLM: default deny, from the headers alone, on every path; and one model for each grant."""

import asyncio
import json
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hubgate.backend.plugin.binding import NotGrantedError, bind
from hubgate.backend.plugin.engine_identity import VARIABLE
from hubgate.backend.plugin.middleware import GrantMiddleware, Message
from hubgate.backend.plugin.shares.gate import Gate
from hubgate.backend.plugin.traffic import Traffic
from hubgate.wire.control_api import GRANT_HEADER
from hubgate.wire.endpoints import FORWARDED
from tests.backend.plugin.engine_identity import ADAPTER, BASE, Engine
from tests.cases import each
from tests.fakes.clock import Clock

HEADER = GRANT_HEADER.lower().encode()
NEVER = object()  # an endpoint that looks no model up


class Vllm:
    """A bare ASGI application in the place of vLLM, and the state that the gate reads of it.

    It looks up `scope["named"]`, as vLLM does with the model in a body.
    """

    def __init__(self) -> None:
        self.reached: list[str] = []
        self.generated: list[object] = []
        self.in_flight = 0
        self.status = 200
        self.hides = False  # whether it turns every error of its own into an answer
        models = SimpleNamespace(lora_requests={ADAPTER: object()}, is_base_model=lambda name: name == BASE)
        bind(models)
        gate = Gate(Clock())
        gate.open(seats=512, adapters=2, context=4096, by_priority=True)
        self.state = SimpleNamespace(
            hubgate_traffic=Traffic(Clock()), hubgate_gate=gate, openai_serving_models=models
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        del receive
        self.reached.append(scope.get("path", scope["type"]))
        self.in_flight = self.state.hubgate_traffic.status().in_flight
        if scope["type"] == "http":
            await self._answer(scope["named"], send)

    async def _answer(self, named: object, send: Any) -> None:
        models = self.state.openai_serving_models
        status = self.status
        try:
            if named != NEVER:
                # A task of its own, as with vLLM's `with_cancellation`, which others come in between of.
                held = await asyncio.create_task(self._look_up(models, named))
                assert status != 200 or held
            self.generated.append(named)
        except Exception:
            if not self.hides:
                raise
            status = 404
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    async def _look_up(self, models: Any, named: object) -> bool:
        await asyncio.sleep(0)
        return named in models.lora_requests or models.is_base_model(named)


class Gated:
    """The gate with the bare application behind it."""

    def __init__(self, engine: Engine) -> None:
        self.vllm = Vllm()
        self.gate = GrantMiddleware(self.vllm, engine.verifier())

    async def ask(
        self,
        path: str,
        *grants: str,
        method: str = "POST",
        headers: tuple[tuple[bytes, bytes], ...] = (),
        named: object = BASE,
    ) -> tuple[int, str]:
        """The status, and the code of the error if it is one."""
        given = [*((HEADER, grant.encode("latin-1", "replace")) for grant in grants), *headers]
        scope = {"type": "http", "method": method, "path": path, "headers": given, "app": self.vllm}
        scope["named"] = named
        sent: list[Message] = []

        async def receive() -> Message:
            raise AssertionError("the gate reads no body")

        async def send(message: Message) -> None:
            sent.append(message)

        await self.gate(scope, receive, send)
        body = sent[1]["body"]
        return sent[0]["status"], "" if body == b"ok" else json.loads(body)["error"]["code"]


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(tmp_path, Clock())


@pytest.fixture
def gated(engine: Engine) -> Gated:
    return Gated(engine)


async def test_what_callers_are_sent_is_counted_and_the_supervisors_is_not(
    gated: Gated, engine: Engine
) -> None:
    """Progress is what callers get; a probe must not look like it."""
    await gated.ask("/v1/completions", engine.command())
    assert gated.vllm.state.hubgate_traffic.status().sent == 0
    await gated.ask("/v1/completions", engine.grant())
    assert gated.vllm.state.hubgate_traffic.status().sent == 2


# The routes of a real vLLM 0.32 with a text model, and some that it never had.
ROUTES = [
    "/load", "/version", "/health", "/metrics", "/v1/models", "/v1/systemone", "/ping", "/invocations",
    "/v1/chat/completions/batch", "/v1/responses/x", "/v1/responses/x/cancel", "/generative_scoring",
    "/scale_elastic_ep", "/is_scaling_elastic_ep", "/v1/chat/completions/render", "/inference/v1/generate",
    "/hubgate/adapters", "/hubgate/adapters/unload", "/hubgate/status", "/hubgate/drain", "/docs",
    "/openapi.json", "/v1/load_lora_adapter", "/adapters", "/pause", "/sleep", "/", "", "/v1/completions/",
    "//v1/completions", "/v1/../v1/completions", "/V1/completions", "/v1/completions;x", "*",
]  # fmt: skip


@each("path", [*ROUTES, *sorted(FORWARDED)])
@each("method", ["GET", "POST", "OPTIONS", "HEAD", "DELETE"])
async def test_no_path_answers_without_a_grant(gated: Gated, path: str, method: str) -> None:
    """threats.md, row 10, straight at the engine: 401, and vLLM learns nothing."""
    assert await gated.ask(path, method=method) == (401, "invalid_grant")
    assert not gated.vllm.reached


@each("path", ROUTES)
async def test_a_use_grant_opens_the_table_of_endpoints_only(gated: Gated, engine: Engine, path: str) -> None:
    """The rest is the supervisor's, whatever a proxy signs."""
    assert await gated.ask(path, engine.grant()) == (404, "unknown_endpoint")
    assert not gated.vllm.reached


@each("path", sorted(FORWARDED))
async def test_a_use_grant_opens_each_endpoint_for_what_is_loaded(
    gated: Gated, engine: Engine, path: str
) -> None:
    """The base model and loaded adapters; with POST, as in the table."""
    assert await gated.ask(path, engine.grant()) == (200, "")
    assert await gated.ask(path, engine.grant(model=ADAPTER), named=ADAPTER) == (200, "")
    assert await gated.ask(path, engine.grant(), method="GET") == (404, "unknown_endpoint")


@each("path", [*ROUTES, *sorted(FORWARDED)])
async def test_the_supervisor_reaches_everything(gated: Gated, engine: Engine, path: str) -> None:
    """Its grants open the controls, and the endpoints for its own probe."""
    assert await gated.ask(path, engine.command(), method="GET") == (200, "")


@each("model", ["", "alice/lora", "alice/lora@" + "c" * 40, BASE + " ", "image"])
async def test_a_model_that_is_not_loaded_is_421_before_the_body(
    gated: Gated, engine: Engine, model: str
) -> None:
    """Only then does the proxy ensure anew. An empty name is never the base model."""
    assert await gated.ask("/v1/completions", engine.grant(model=model)) == (421, "not_loaded")
    assert not gated.vllm.reached


OTHERS = [None, "", "image", BASE.lower() + " ", "alice/lora", "demo/base", ["a"], "alice/lora@" + "c" * 40]


@each("path", sorted(FORWARDED))
@each(
    ("granted", "other"),
    [(BASE, ADAPTER), (ADAPTER, BASE), *((m, o) for m in (BASE, ADAPTER) for o in OTHERS)],
)
async def test_a_grant_is_for_the_model_that_the_body_names(
    gated: Gated, engine: Engine, path: str, granted: str, other: object
) -> None:
    """Another name is 403, or none, and nothing is generated, whatever vLLM makes of the error."""
    for hides in (False, True):
        gated.vllm.hides = hides
        gated.vllm.generated.clear()
        grant = engine.grant(model=granted)
        assert await gated.ask(path, grant, named=other) == (403, "model_not_allowed")
        assert not gated.vllm.generated
        assert await gated.ask(path, grant, named=granted) == (200, "")


async def test_what_looks_no_model_up_does_not_answer(gated: Gated, engine: Engine) -> None:
    """An endpoint that a grant cannot be bound on is closed; what it says of a bad request is passed on."""
    assert await gated.ask("/v1/completions", engine.grant(), named=NEVER) == (403, "model_not_allowed")
    gated.vllm.status = 400
    assert (await gated.ask("/v1/completions", engine.grant(), named=NEVER))[0] == 400
    gated.vllm.status = 200
    assert await gated.ask("/v1/completions", engine.command(), named=NEVER) == (200, "")


async def test_requests_at_the_same_time_are_bound_each_to_its_own_grant(
    gated: Gated, engine: Engine
) -> None:
    """Their look-ups come in between each other, and none of them sees another's model."""
    grants = {model: engine.grant(model=model) for model in (BASE, ADAPTER)}
    asked = [(granted, named) for granted in grants for named in grants] * 50
    answers = await asyncio.gather(
        *(gated.ask("/v1/completions", grants[granted], named=named) for granted, named in asked)
    )
    for (granted, named), (status, _) in zip(asked, answers, strict=True):
        assert status == (200 if granted == named else 403)


@each("hides", [False, True])
async def test_an_answer_that_turns_to_another_model_is_cut(
    engine: Engine, gated: Gated, hides: bool
) -> None:
    """It cannot be taken back, and must not look complete: the server closes what has no end."""
    models = gated.vllm.state.openai_serving_models
    sent: list[Message] = []

    async def turning(_: Any, __: Any, send: Any) -> None:
        assert models.is_base_model(BASE)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        with suppress(NotGrantedError) if hides else nullcontext():
            models.lora_requests.get(ADAPTER)
        await send({"type": "http.response.body", "body": b"ok"})

    async def send(message: Message) -> None:
        sent.append(message)

    gate = GrantMiddleware(turning, engine.verifier())
    headers = [(HEADER, engine.grant().encode())]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/completions",
        "headers": headers,
        "app": gated.vllm,
    }
    with nullcontext() if hides else pytest.raises(NotGrantedError):
        await gate(scope, turning, send)  # type: ignore[arg-type]
    assert [message["type"] for message in sent] == ["http.response.start"]


async def test_a_fault_of_vllms_own_stays_one(gated: Gated, engine: Engine) -> None:
    """What has nothing to do with the grant goes on to vLLM's server."""

    async def fail(*_: Any) -> None:
        raise RuntimeError("the core is gone")

    gated.gate = GrantMiddleware(fail, engine.verifier())
    with pytest.raises(RuntimeError, match="the core is gone"):
        await gated.ask("/v1/completions", engine.grant())


async def test_a_draining_engine_and_an_adapter_on_its_way_out_are_421(gated: Gated, engine: Engine) -> None:
    """New requests go elsewhere while old ones end."""
    traffic = gated.vllm.state.hubgate_traffic
    with traffic.refusing(ADAPTER):
        assert await gated.ask("/v1/completions", engine.grant(model=ADAPTER)) == (421, "not_loaded")
        assert await gated.ask("/v1/completions", engine.grant()) == (200, "")
    traffic.draining = True
    assert await gated.ask("/v1/completions", engine.grant()) == (421, "not_loaded")


async def test_two_grants_are_none(gated: Gated, engine: Engine) -> None:
    """Nobody gets to choose which of two headers counts."""
    assert await gated.ask("/v1/completions", engine.grant(), engine.grant()) == (401, "invalid_grant")
    assert await gated.ask("/v1/completions", "x", engine.command()) == (401, "invalid_grant")


async def test_a_header_that_looks_alike_is_none(gated: Gated, engine: Engine) -> None:
    """threats.md, row 7: an underscore is no dash, and SageMaker's headers are nothing to us."""
    headers = (
        (b"x_hubgate_grant", engine.grant().encode()),
        (b"x-amzn-sagemaker-adapter-identifier", ADAPTER.encode()),
        (b"authorization", f"Bearer {engine.grant()}".encode()),
    )
    assert await gated.ask("/v1/completions", headers=headers) == (401, "invalid_grant")


async def test_requests_are_counted_by_model(gated: Gated, engine: Engine) -> None:
    """What draining waits for; the supervisor's own calls do not count."""
    await gated.ask("/v1/completions", engine.grant(model=ADAPTER), named=ADAPTER)
    assert gated.vllm.in_flight == 1
    await gated.ask("/health", engine.command())
    assert gated.vllm.in_flight == 0
    assert set(gated.vllm.state.hubgate_traffic.status().models) == {ADAPTER}


async def test_a_websocket_is_closed_even_with_a_grant(gated: Gated, engine: Engine) -> None:
    """No endpoint of the table is one."""
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(HEADER, engine.command().encode())]
    await gated.gate({"type": "websocket", "path": "/v1/realtime", "headers": headers}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]
    assert not gated.vllm.reached


async def test_start_and_end_of_the_server_pass(gated: Gated) -> None:
    """The lifespan of vLLM must run; any kind of connection that is not known must not."""

    async def nothing(*_: Any) -> Any:
        return None

    await gated.gate({"type": "lifespan"}, nothing, nothing)
    assert gated.vllm.reached == ["lifespan"]
    with pytest.raises(RuntimeError, match="unknown kind"):
        await gated.gate({"type": "quic"}, nothing, nothing)


def test_an_engine_that_does_not_know_itself_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither without the variable, nor with an empty file."""
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(KeyError):
        GrantMiddleware(Vllm())
    (tmp_path / "engine.json").write_text("{}", encoding="utf-8")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "engine.json"))
    with pytest.raises(ValueError, match="missing required field"):
        GrantMiddleware(Vllm())
