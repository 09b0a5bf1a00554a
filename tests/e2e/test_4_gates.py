"""What must not pass: bad names, unknown paths, and the engine's own port without a grant."""

import re

import httpx
import pytest

from tests.e2e.product import BASE, Product

BAD_NAMES = [
    "../x",
    "a/b\n",
    "http://169.254.169.254/latest",
    "a/b?x",
    "a%2fb",
    "~root/x",
    "/etc/passwd",
    "alice/pirate-lora@../x",
    "demo/tiny-llama/../../x",
    "dém/o",
    "",
]


def _engine_requests(product: Product) -> int:
    """How many requests the engine has finished, by its own count."""
    return sum(
        int(float(line.rpartition(" ")[2]))
        for line in product.backend_metrics().splitlines()
        if line.startswith("vllm:request_success_total")
    )


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_bad_name_is_400_and_never_asked_of_the_hub(product: Product, name: str) -> None:
    """A model that is no org/name[@revision] is refused by its form alone."""
    product.complete(BASE, "hf_demo_alice").raise_for_status()  # alice is known by now
    before = len(product.hub_log())
    answer = product.complete(name, "hf_demo_alice")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
    assert len(product.hub_log()) == before


@pytest.mark.parametrize(
    "path",
    ["/", "/v1/load_lora_adapter", "/v1/../pause", "/invocations", "/metrics", "/v1/models%2fx", "//health"],
)
def test_an_unknown_path_is_404_for_everybody(product: Product, path: str) -> None:
    """What is not in the table does not exist, with a token and without."""
    raw = httpx.URL(product.url).copy_with(raw_path=path.encode())
    for headers in ({}, {"Authorization": "Bearer hf_demo_alice"}):
        answer = product.http.post(raw, json={}, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_endpoint")


def test_refused_requests_never_reach_the_engine(product: Product) -> None:
    """A body that is no JSON, a forbidden field and an unknown path leave the engine's count as it was."""
    before = _engine_requests(product)
    headers = {"Authorization": "Bearer hf_demo_alice", "Content-Type": "application/json"}
    url = f"{product.url}/v1/completions"
    assert product.http.post(url, content=b"{model", headers=headers).status_code == 400
    assert product.http.post(url, content=b'{"model": 1, "model": 2}', headers=headers).status_code == 400
    assert product.complete(BASE, "hf_demo_alice", cache_salt="mine").status_code == 400
    assert product.complete(BASE, "hf_demo_alice", prompt_embeds="x").status_code == 400
    assert product.post("/v1/unload_lora_adapter", {"lora_name": "x"}).status_code == 404
    assert _engine_requests(product) == before


def _routes(product: Product) -> set[tuple[str, str]]:
    """Every route that the engine has, by what vLLM itself logs when it starts."""
    log = (product.layout.logs / "backend.log").read_text(encoding="utf-8")
    found = re.findall(r"Route: (/[^,\s]*), (?:Methods: ([A-Z, ]+)|Endpoint)", log)
    return {(method, path) for path, methods in found for method in (methods or "GET").split(", ")}


def test_every_route_of_the_engine_is_401_without_a_grant(product: Product) -> None:
    """The engine's own port answers nobody who comes without a grant, or with a made-up one."""
    routes = [
        *_routes(product),
        ("GET", "/nothing"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("OPTIONS", "/v1/models"),
    ]
    assert len(routes) > 20
    assert {("POST", "/v1/chat/completions"), ("POST", "/hubgate/adapters")} <= set(routes)
    with httpx.Client(base_url=f"http://127.0.0.1:{product.ports.engine}", timeout=30) as engine:
        for method, path in routes:
            for headers in (
                {},
                {"X-Hubgate-Grant": "e30.e30.e30"},
                {"Authorization": "Bearer hf_demo_alice"},
            ):
                answer = engine.request(method, path.replace("{", "").replace("}", ""), headers=headers)
                assert answer.status_code == 401, (method, path)


def test_the_control_api_is_401_without_a_grant(product: Product) -> None:
    """The backend tells nothing of itself, and loads nothing, for whoever has no control grant."""
    with httpx.Client(base_url=f"http://127.0.0.1:{product.ports.backend}", timeout=30) as backend:
        assert backend.get("/v1/hello").status_code == 401
        assert backend.post("/v1/ensure", json={"token": "x"}).status_code == 401
        assert backend.get("/v1/anything").status_code == 401
