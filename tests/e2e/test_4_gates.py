"""What must not pass: bad names, unknown paths, and the engine's own port without a grant."""

import subprocess
import sys
from pathlib import Path

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
        answer = httpx.post(raw, json={}, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_endpoint")


def test_refused_requests_never_reach_the_engine(product: Product) -> None:
    """A body that is no JSON, a forbidden field and an unknown path leave the engine's count as it was."""
    before = _engine_requests(product)
    headers = {"Authorization": "Bearer hf_demo_alice", "Content-Type": "application/json"}
    url = f"{product.url}/v1/completions"
    assert httpx.post(url, content=b"{model", headers=headers).status_code == 400
    assert httpx.post(url, content=b'{"model": 1, "model": 2}', headers=headers).status_code == 400
    assert product.complete(BASE, "hf_demo_alice", cache_salt="mine").status_code == 400
    assert product.complete(BASE, "hf_demo_alice", prompt_embeds="x").status_code == 400
    assert product.post("/v1/unload_lora_adapter", {"lora_name": "x"}).status_code == 404
    assert _engine_requests(product) == before


def _routes(product: Product) -> list[tuple[str, str]]:
    """Every route that this vLLM registers, by its own list, made in a process of its own."""
    code = """
import sys
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
args = make_arg_parser(FlexibleArgumentParser()).parse_args(["--model", sys.argv[1]])
for route in build_app(args, supported_tasks=("generate",)).routes:
    for method in sorted(getattr(route, "methods", None) or {"GET"}):
        print("ROUTE", method, route.path)
"""
    (model,) = (product.layout.root / "store" / "demo" / "tiny-llama").iterdir()
    ran = subprocess.run(
        [sys.executable, "-c", code, str(model)], capture_output=True, text=True, check=False, cwd=Path.cwd()
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    lines = (line.split() for line in ran.stdout.splitlines() if line.startswith("ROUTE"))
    return [(method, path) for _, method, path in lines]


def test_every_route_of_the_engine_is_401_without_a_grant(product: Product) -> None:
    """The engine's own port answers nobody who comes without a grant, or with a made-up one."""
    routes = [
        *_routes(product),
        ("GET", "/nothing"),
        ("POST", "/hubgate/adapters"),
        ("OPTIONS", "/v1/models"),
    ]
    assert len(routes) > 20
    assert ("POST", "/v1/chat/completions") in routes
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
