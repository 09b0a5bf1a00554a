"""What the engine does with a request that its models do not take, as its callers can make it."""

from typing import Any, Literal

import pytest
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient
from pydantic import BaseModel
from typing_extensions import TypedDict

from hubgate.backend.plugin import first_fault
from hubgate.backend.plugin.vllm_methods import VllmDiffersError


class _Text(TypedDict):
    type: Literal["text"]
    text: str


class _Message(TypedDict, total=False):
    content: str | list[_Text]


class _Body(BaseModel):
    prompt: list[int] | list[list[int]] | str | None = None
    messages: list[_Message | _Text] | None = None


def _app() -> FastAPI:
    app = FastAPI()

    @app.post("/")
    async def read(body: _Body) -> Any:
        return body.model_dump(exclude_unset=True)

    @app.exception_handler(RequestValidationError)
    async def tell(_: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse(len(error.errors()), 400)

    return app


@pytest.fixture
def engine() -> TestClient:
    app = _app()
    for _ in range(2):  # harmless when repeated
        first_fault.stop_at_first_fault(app)
    return TestClient(app)


@pytest.mark.parametrize(
    "body",
    [{"prompt": ["x"]}, {"messages": [{"content": 1}]}, {"messages": [{"content": [{"type": "image"}]}]}],
    ids=["ids", "items", "parts"],
)
def test_a_fault_costs_what_it_costs_once(engine: TestClient, body: dict[str, Any]) -> None:
    """However often it stands in its list."""
    once = engine.post("/", json=body)
    many = engine.post("/", json={name: value * 1000 for name, value in body.items()})
    assert (once.status_code, many.status_code) == (400, 400)
    assert many.json() == once.json()
    assert TestClient(_app()).post("/", json={"prompt": ["x"] * 1000}).json() > 1000


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": [1, 2, 3]},
        {"prompt": [[1], [2, 3]]},
        {"prompt": "x"},
        {"messages": [{"content": [{"type": "text", "text": "x"}]}, {"type": "text", "text": "y"}]},
        {},
    ],
    ids=["ids", "lists", "text", "messages", "none"],
)
def test_what_is_good_is_read_as_before(engine: TestClient, body: dict[str, Any]) -> None:
    """The same values, of the same model."""
    answer = engine.post("/", json=body)
    assert (answer.status_code, answer.json()) == (200, body)


def test_another_fastapi_is_not_served_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine whose bodies would go unbounded does not start."""
    app = _app()
    (field,) = _fields(app)
    monkeypatch.delattr(field, "_type_adapter")
    with pytest.raises(VllmDiffersError):
        first_fault.stop_at_first_fault(app)


def _fields(app: FastAPI) -> list[Any]:
    dependants = [getattr(route, "dependant", None) for route in app.routes]
    return [field for dependant in dependants if dependant is not None for field in dependant.body_params]
